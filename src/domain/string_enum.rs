//! Closed sets of words that users write in SQL: enums that know their own names.

/// A word that is none of those its set knows. Its message lists the known ones.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown {kind} {word:?}: known are {}", known.join(", "))]
pub struct UnknownWord {
    /// What the word was to name, for instance `direction`.
    pub kind: &'static str,
    /// The word, cut short if it is long.
    pub word: String,
    /// Every word of the set.
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

            /// The word that users write and see.
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
            type Err = $crate::UnknownWord;

            fn from_str(word: &str) -> Result<Self, Self::Err> {
                match word {
                    $($name => Ok($type::$variant),)+
                    _ => Err($crate::UnknownWord {
                        kind: $kind,
                        word: $crate::value::excerpt(word),
                        known: $type::NAMES,
                    }),
                }
            }
        }
    };
}

pub(crate) use string_enum;
