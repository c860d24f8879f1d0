//! The SMTP wire: bytes to values and values to bytes, with no I/O, no clock and no globals.
#![warn(missing_docs)]

pub mod address;
pub mod command;
pub mod ehlo;
pub mod fault;
pub mod header;
pub mod limits;
pub mod params;
mod path;
#[cfg(feature = "python")]
mod py;
pub mod reply;
pub mod xtext;
