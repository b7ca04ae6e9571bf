//! The verbs of the API, one file each, all methods of the engine.

pub mod attach;
pub mod create;
pub mod detach;
pub mod information;
pub mod list;
pub mod open;
