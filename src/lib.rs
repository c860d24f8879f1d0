//! The SMTP wire: bytes to values and values to bytes, with no I/O, no clock and no globals.
//!
//! A way through it: [`fault`] names everything that can be wrong with a peer's bytes. [`command`] reads one command
//! line, with [`address`] and [`params`] for what it holds and [`xtext`] for what a parameter hides. [`reply`] reads and
//! writes replies, [`ehlo`] what a server offers. [`data`] puts transparency on and takes it off, over the one pass of
//! [`scan`]; [`framer`] composes all of it into an incremental decoder for a server. [`header`] finds the fields of a
//! message. [`limits`] holds every bound.
//!
//! Guarantees: no input makes it panic; what is held in memory is bounded by [`limits::Limits`]; what comes out does not
//! depend on how the input was cut into pieces; values borrow from their input wherever they can.
//!
//! ```
//! use ironpost::command::{Verb, parse_command};
//!
//! let command = parse_command(b"MAIL FROM:<user@mail.example> SIZE=1024\r\n");
//! assert_eq!(command.verb, Verb::Mail);
//! assert_eq!(command.path.unwrap().domain, "mail.example");
//! assert_eq!(command.parameters.get("size"), Some(Some("1024")));
//! ```
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
