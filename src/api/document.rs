//! A `jsonb` argument, as every function of this crate takes it.
//!
//! Guarantee: what cannot be taken is an ordinary error with a SQLSTATE of its class. PostgreSQL
//! stores JSON that is nested as deep as its stack allows; here it may be nested [`DEEPEST`] levels
//! deep, as far as the parser goes.

use std::ffi::CStr;

use pgrx::callconv::{Arg, ArgAbi};
use pgrx::nullable::Nullable;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::prelude::*;
use pgrx::{PgSqlErrorCode, direct_function_call};
use serde_json::Value as Json;

use super::raise;

/// The recursion limit of serde_json.
const DEEPEST: usize = 127;

pub struct Document(pub Json);

fn parse(text: &str) -> Json {
    serde_json::from_str(text).unwrap_or_else(|error| {
        // PostgreSQL wrote it, so it is JSON.
        raise(
            PgSqlErrorCode::ERRCODE_STATEMENT_TOO_COMPLEX,
            "the JSON is nested too deep".to_owned(),
            Some(format!("It may be nested {DEEPEST} levels deep: {error}.")),
            "No CRM takes such a value.",
        )
    })
}

impl FromDatum for Document {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        _: pg_sys::Oid,
    ) -> Option<Self> {
        if is_null {
            return None;
        }
        // SAFETY: the argument's type is jsonb, whose output function gives a string in memory of
        // this call.
        let text = unsafe { direct_function_call::<&CStr>(pg_sys::jsonb_out, &[Some(datum)]) }?;
        // The database's encoding may be another one: then what is beyond ASCII is no UTF-8.
        Some(Document(parse(&text.to_string_lossy())))
    }
}

// SAFETY: as pgrx does it for its own JsonB, whose place this takes.
unsafe impl<'fcx> ArgAbi<'fcx> for Document {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the caller sees to it that the argument is a jsonb.
        let document = unsafe { arg.unbox_arg_using_from_datum() };
        document.unwrap_or_else(|| {
            raise(
                PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
                "a jsonb argument must not be NULL".to_owned(),
                None,
                "An empty object is '{}'.",
            )
        })
    }

    unsafe fn unbox_nullable_arg(arg: Arg<'_, 'fcx>) -> Nullable<Self> {
        // SAFETY: the caller sees to it that the argument is a jsonb.
        unsafe { arg.unbox_arg_using_from_datum().into() }
    }
}

// SAFETY: it is read from a jsonb, and from nothing else.
unsafe impl SqlTranslatable for Document {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(Document);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("jsonb"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> =
        Ok(ReturnsRef::One(SqlMappingRef::literal("jsonb")));
}
