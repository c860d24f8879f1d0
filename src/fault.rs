//! Every fault that input from a peer can have: one enum, one sentence each.
//!
//! Promises: [`FaultId::ALL`] is complete, ids never change their meaning, and each sentence can be shown to people.
//! `FAULTS` in `python/ironpost/wire/interface.py` is the same catalogue; a test compares them.
//!
//! Refuses: nothing; a fault is a value.

use std::error::Error;
use std::fmt;

macro_rules! catalogue {
    ($($name:ident = $id:literal, $sentence:literal;)*) => {
        /// The kind of fault, as a stable id.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum FaultId {
            $(#[doc = $sentence] $name,)*
        }

        impl FaultId {
            /// Every id, in the order of the catalogue.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The id in Python and in logs.
            #[must_use]
            pub const fn id(self) -> &'static str {
                match self {
                    $(Self::$name => $id,)*
                }
            }

            /// A sentence for people.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self {
                    $(Self::$name => $sentence,)*
                }
            }
        }
    };
}

catalogue! {
    LineTooLong = "line-too-long", "The line is longer than the limit.";
    BareCr = "bare-cr", "A CR is not followed by LF; only CRLF ends a line.";
    BareLf = "bare-lf", "An LF does not follow a CR; only CRLF ends a line.";
    Nul = "nul", "The line holds a NUL octet.";
    VerbMalformed = "verb-malformed", "The line does not start with a verb of letters and digits.";
    ArgumentMissing = "argument-missing", "The command needs an argument.";
    ArgumentUnexpected = "argument-unexpected", "The command takes no argument.";
    PathKeywordMissing = "path-keyword-missing", "MAIL needs FROM: and RCPT needs TO: directly after the verb.";
    PathSpace = "path-space", "No space is allowed between the colon and the path.";
    PathMissing = "path-missing", "The path must be enclosed in angle brackets.";
    PathUnclosed = "path-unclosed", "The path has no closing angle bracket.";
    PathNull = "path-null", "The null path is allowed only in MAIL.";
    PathTooLong = "path-too-long", "The path is longer than 256 octets.";
    PathTrailing = "path-trailing", "Something other than a space and parameters follows the path.";
    RouteMalformed = "route-malformed", "The source route is not a list of @domain ended by a colon.";
    LocalPartEmpty = "local-part-empty", "The local part is empty.";
    LocalPartMalformed = "local-part-malformed", "The local part holds an octet or a dot where none is allowed.";
    QuotedStringUnclosed = "quoted-string-unclosed", "The quoted local part has no closing quote.";
    QuotedStringMalformed = "quoted-string-malformed", "The quoted local part holds an octet that cannot be quoted.";
    AtMissing = "at-missing", "The address has no @ and domain.";
    DomainEmpty = "domain-empty", "The domain is empty.";
    DomainMalformed = "domain-malformed", "The domain holds an octet, a dot or a hyphen where none is allowed.";
    LabelTooLong = "label-too-long", "A label of the domain is longer than 63 octets.";
    DomainTooLong = "domain-too-long", "The domain is longer than 255 octets.";
    LiteralUnclosed = "literal-unclosed", "The address literal has no closing bracket.";
    LiteralMalformed = "literal-malformed", "The address literal is neither IPv4, nor IPv6: with an IPv6 address, nor a tagged literal.";
    Utf8Malformed = "utf8-malformed", "The octets are not UTF-8.";
    ParameterMalformed = "parameter-malformed", "A parameter is not KEYWORD or KEYWORD=value.";
    ParameterValueMalformed = "parameter-value-malformed", "A parameter value is empty or holds a space, a control character or an equals sign.";
    ParameterDuplicate = "parameter-duplicate", "A parameter is given twice.";
    ChunkSizeMalformed = "chunk-size-malformed", "The chunk size is not a decimal number.";
    ChunkSizeTooLarge = "chunk-size-too-large", "The chunk size does not fit in 63 bits.";
    ChunkLastMalformed = "chunk-last-malformed", "Only LAST may follow the chunk size.";
    ReplyMalformed = "reply-malformed", "The reply line does not start with three digits from 200 to 599 and a space or hyphen.";
    ReplyCodesDiffer = "reply-codes-differ", "The lines of one reply carry different codes.";
    ReplyTooManyLines = "reply-too-many-lines", "The reply has more lines than the limit.";
    ReplyTooLong = "reply-too-long", "The reply is longer than the limit.";
    ReplyIncomplete = "reply-incomplete", "The reply ends before its last line.";
    ReplyTrailing = "reply-trailing", "Something follows the last line of the reply.";
    EhloRefused = "ehlo-refused", "The reply to EHLO is not 250.";
    XtextMalformed = "xtext-malformed", "The xtext holds an octet that must be encoded, or a broken escape.";
    HeaderFieldMalformed = "header-field-malformed", "The line is neither a field, nor a continuation, nor the empty line.";
    HeaderTooLarge = "header-too-large", "The header section is larger than the limit.";
    HeaderTooManyFields = "header-too-many-fields", "The header section has more fields than the limit.";
}

impl FaultId {
    /// Makes a fault of this kind at an offset.
    #[must_use]
    pub const fn at(self, offset: usize) -> Fault {
        Fault { id: self, offset }
    }
}

impl fmt::Display for FaultId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

/// One fault: its kind and its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    /// The kind of fault.
    pub id: FaultId,
    /// Octets from the start of the line (or item) to the first invalid octet.
    pub offset: usize,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (octet {}, {})", self.id.sentence(), self.offset, self.id)
    }
}

impl Error for Fault {}

#[cfg(test)]
mod tests {
    use super::FaultId;

    #[test]
    fn ids_are_distinct_and_sentences_end_in_a_stop() {
        let mut ids: Vec<_> = FaultId::ALL.iter().map(|fault| fault.id()).collect();
        ids.sort_unstable();
        let count = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), count);
        assert!(FaultId::ALL.iter().all(|fault| fault.sentence().ends_with('.')));
    }

    #[test]
    fn a_fault_reads_as_in_python() {
        let fault = FaultId::BareCr.at(7);
        assert_eq!(
            fault.to_string(),
            "A CR is not followed by LF; only CRLF ends a line. (octet 7, bare-cr)"
        );
    }
}
