//! Settings: what was typed, and what is usable.
