//! The SMTP wire: bytes to values and values to bytes, with no I/O, no clock and no globals.
#![warn(missing_docs)]

pub mod address;
mod chunk;
pub mod command;
pub mod data;
pub mod ehlo;
pub mod fault;
pub mod framer;
pub mod header;
pub mod limits;
mod line;
pub mod params;
mod path;
#[cfg(feature = "python")]
mod py;
pub mod reply;
pub mod scan;
pub mod xtext;
