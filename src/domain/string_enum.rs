//! Enums whose variants have the names that users write in SQL.

/// A name that the set does not have. The message lists those that it has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown {kind} {name:?}: valid values are {}", known.join(", "))]
pub struct UnknownName {
    /// What the name stands for, such as `direction`.
    pub kind: &'static str,
    /// The name, cut short if it is long.
    pub name: String,
    /// Every name of the set.
    pub known: &'static [&'static str],
}

/// Declares an enum whose variants have names: `ALL`, `NAMES`, `name()`, `Display`, `FromStr`.
macro_rules! string_enum {
    (
        $(#[$attribute:meta])*
        $type:ident : $kind:literal {
            $($(#[$variant_attribute:meta])* $variant:ident = $name:literal,)+
        }
    ) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $type {
            $($(#[$variant_attribute])* $variant,)+
        }

        impl $type {
            pub const ALL: [$type; [$($name),+].len()] = [$($type::$variant),+];
            pub const NAMES: &'static [&'static str] = &[$($name),+];

            /// The name that users write and see.
            pub fn name(self) -> &'static str {
                match self {
                    $($type::$variant => $name,)+
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl std::str::FromStr for $type {
            type Err = $crate::UnknownName;

            fn from_str(name: &str) -> Result<Self, Self::Err> {
                match name {
                    $($name => Ok($type::$variant),)+
                    _ => Err($crate::UnknownName {
                        kind: $kind,
                        name: $crate::value::excerpt(name),
                        known: $type::NAMES,
                    }),
                }
            }
        }
    };
}

pub(crate) use string_enum;
