//! The SMTP wire: bytes to values and values to bytes, with no I/O, no clock and no globals.
#![warn(missing_docs)]

pub mod address;
pub mod command;
pub mod fault;
pub mod limits;
pub mod params;
mod path;
