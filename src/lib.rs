//! The SMTP wire: bytes to values and values to bytes, with no I/O, no clock and no globals.
//!
//! Where to start: [`fault`] lists every fault that a peer's bytes can have. [`command`] parses one command
//! line, with [`address`] and [`params`] for its argument and [`xtext`] for encoded parameter values. [`reply`] parses
//! and writes replies, [`ehlo`] parses the reply to EHLO. [`data`] adds and removes transparency in one pass of
//! [`scan`]; [`framer`] combines these into an incremental decoder for a server. [`header`] finds the fields of a
//! message, [`canonical`] brings body and fields into the form that DKIM signs. [`limits`] defines every bound.
//!
//! Guarantees: no input makes it panic; memory use is bounded by [`limits::Limits`]; the output does not depend on how
//! the input was cut into pieces; values borrow from their input where possible.
//!
//! ```
//! use ironpost::address::Addresses;
//! use ironpost::command::{Verb, parse_command};
//!
//! let command = parse_command(b"MAIL FROM:<user@mail.example> SIZE=1024\r\n", Addresses::Strict);
//! assert_eq!(command.verb, Verb::Mail);
//! assert_eq!(command.path.unwrap().domain, "mail.example");
//! assert_eq!(command.parameters.get("size"), Some(Some("1024")));
//! ```
#![warn(missing_docs)]

pub mod address;
pub mod canonical;
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
