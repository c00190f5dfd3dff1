//! pgrx reads the SQL of the extension from a section of the library, which the linker must not
//! drop as unused.
//!
//! `cargo pgrx` asks for that with rustflags of its own, and rustflags count for every crate: pgrx
//! and its bindings would be compiled once for the tests and once more for the library. Asked for
//! here it concerns the library alone; `CARGO_PGRX_DISABLE_GC_SECTIONS_WORKAROUND` in the Makefile
//! then leaves the rustflags as they are.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,--no-gc-sections");
}
