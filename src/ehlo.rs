//! The reply to EHLO: the server's name and its extensions.
//!
//! Promises: every well-formed extension line is kept, known or not. Refuses: a reply that is not 250. A malformed line
//! is skipped, because no part of it is reliable.
//!
//! Standards: RFC 5321 §4.1.1.1 (ehlo-ok-rsp, ehlo-line).

use crate::fault::{Fault, FaultId};
use crate::reply::Reply;

/// A parsed EHLO reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ehlo {
    /// The first word of the first line; empty if there is none.
    pub domain: String,
    /// Keyword in upper case with its parameters, joined by one space. Each keyword occurs once.
    pub extensions: Vec<(String, String)>,
}

/// The positive reply code to EHLO (RFC 5321 §4.1.1.1).
const EHLO_OK: u16 = 250;

/// Parses the reply to EHLO.
///
/// # Errors
/// `ehlo-refused` if the reply is not 250.
pub fn parse_ehlo(reply: &Reply<'_>) -> Result<Ehlo, Fault> {
    if reply.code != EHLO_OK {
        return Err(FaultId::EhloRefused.at(0));
    }
    let mut lines = reply.lines.iter();
    let first = lines.next().copied().unwrap_or_default();
    let domain = first.split(|&octet| octet == b' ').next().unwrap_or_default();
    let mut extensions: Vec<(String, String)> = Vec::with_capacity(reply.lines.len());
    for (keyword, parameters) in lines.filter_map(|line| extension(line)) {
        match extensions.iter_mut().find(|(known, _)| *known == keyword) {
            Some((_, known)) => *known = parameters,
            None => extensions.push((keyword, parameters)),
        }
    }
    Ok(Ehlo {
        domain: String::from_utf8_lossy(domain).into_owned(),
        extensions,
    })
}

/// `ehlo-line = ehlo-keyword *( SP ehlo-param )`
fn extension(line: &[u8]) -> Option<(String, String)> {
    let text = std::str::from_utf8(line).ok()?;
    let mut words = text.split(' ').filter(|word| !word.is_empty());
    let keyword = words.next().filter(|_| !text.starts_with(' '))?;
    let well_formed = keyword
        .bytes()
        .all(|octet| octet.is_ascii_alphanumeric() || octet == b'-')
        && !keyword.starts_with('-')
        && words
            .clone()
            .all(|word| word.bytes().all(|octet| matches!(octet, 33..=126)));
    let parameters = words.collect::<Vec<_>>().join(" ");
    well_formed.then(|| (keyword.to_ascii_uppercase(), parameters))
}
