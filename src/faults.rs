//! Faults that tests plant: crash points, at which a worker can be stopped for good or frozen, and bugs, which break the protocol in one place.
//!
//! Crash points are reached through a [`Faults`] that is handed in, so tests stay parallel; bugs are asked for by [`planted`], because they sit in
//! pure code too. Both are there with the feature `faults` alone: without it [`Faults`] is a zero-sized type that does nothing and
//! [`planted`] is `false` at compile time. In a process they are set by `FAULTS_CRASH_AT=point[:n]` (abort at the n-th time the point is
//! reached) and `FAULTS_BUG=bug`; in a test by `Faults::arm` and `plant`.
//!
//! What must never happen here: a release build with the feature; a crash point that `tests/crashes.rs` does not run through, or a bug that
//! no check of `tests/planted.rs` catches (both go through `ALL`).

#[cfg(feature = "faults")]
mod armed;
mod bugs;
mod points;
#[cfg(not(feature = "faults"))]
mod quiet;

#[cfg(feature = "faults")]
pub use armed::{Faults, Planted, plant, planted};
pub use bugs::Bug;
pub use points::CrashPoint;
#[cfg(not(feature = "faults"))]
pub use quiet::{Faults, planted};

/// An enum whose variants have a name and say in a sentence what they are, and that cannot grow without `ALL` growing.
macro_rules! named {
    ($(#[$meta:meta])* pub enum $enum:ident { $($variant:ident = $name:literal: $says:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $enum { $(#[doc = $says] $variant,)+ }

        impl $enum {
            /// All of them, in the order of the flow.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Stable snake_case name.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What it is, for people.
            pub const fn says(self) -> &'static str {
                match self { $(Self::$variant => $says,)+ }
            }

            /// The one of this name.
            pub fn parse(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.as_str() == name)
            }
        }
    };
}
use named;
