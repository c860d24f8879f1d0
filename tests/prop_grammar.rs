//! Properties of the grammar on inputs that nobody wrote down.

use std::borrow::Cow;

use ironpost::address::{Addresses, Mailbox, Tolerated, format_mailbox, parse_mailbox};
use ironpost::command::{Verb, parse_command};
use ironpost::fault::{Fault, FaultId};
use ironpost::header::{scan_header, unfold};
use ironpost::limits::Limits;
use ironpost::reply::{ReplyReader, format_reply, parse_reply};
use ironpost::xtext::{utf8_addr_xtext_decode, utf8_addr_xtext_encode, xtext_decode, xtext_encode};
use proptest::collection::vec;
use proptest::prelude::*;

/// A reply as its code and lines, or the fault that ended the reading.
type Event = Result<(u16, Vec<Vec<u8>>), Fault>;

/// Octets from the alphabet of the grammar, so that inputs come near to it.
fn near() -> impl Strategy<Value = Vec<u8>> {
    let octet = prop_oneof![
        8 => proptest::sample::select(b"<>@:,;.\"\\[]=-_+ \taZ09\r\n\0\x7f\xc3\xa9\xff".to_vec()),
        1 => any::<u8>(),
    ];
    vec(octet, 0..60)
}

fn command_line() -> impl Strategy<Value = Vec<u8>> {
    let start = proptest::sample::select(vec![
        "MAIL FROM:<",
        "RCPT TO:<",
        "mail from:<a@b.example> ",
        "RCPT TO:<@a.example,@b.example:",
        "EHLO ",
        "BDAT ",
        "AUTH ",
        "NOOP",
        "RCPT TO:<\"",
        "MAIL FROM:<a@[",
        "",
    ]);
    let end = proptest::sample::select(vec!["", "\r\n", ">", ">\r\n", "@c.example>", "]>", "> SIZE=1 size=2"]);
    (start, near(), end).prop_map(|(start, middle, end)| [start.as_bytes(), &middle, end.as_bytes()].concat())
}

fn feed(reader: &mut ReplyReader, piece: &[u8], events: &mut Vec<Event>) {
    reader.feed(piece, &mut |event| {
        events.push(event.map(|reply| (reply.code, reply.lines.iter().map(|line| line.to_vec()).collect())));
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// SECURITY R22, R17: nothing panics, a fault lies within the line, and no value can hold CR, LF or NUL.
    #[test]
    fn r17_r22_any_line_gives_a_command_without_line_ends(line in command_line(), lenient in any::<bool>()) {
        let addresses = if lenient { Addresses::Lenient } else { Addresses::Strict };
        let command = parse_command(&line, addresses);
        prop_assert_eq!(&command, &parse_command(&line, addresses));
        if command.fault.is_none() && command.tolerated == Tolerated::default() {
            prop_assert_eq!(&command, &parse_command(&line, Addresses::Strict));
            prop_assert_eq!(&command, &parse_command(&line, Addresses::Lenient));
        } else if command.fault.is_none() {
            prop_assert!(lenient && parse_command(&line, Addresses::Strict).fault.is_some());
        }
        match command.fault {
            Some(fault) => prop_assert!(fault.offset <= line.len(), "{:?}", fault),
            None => {
                let clean = |text: &str| !text.contains(['\r', '\n', '\0']);
                prop_assert!(command.verb != Verb::Missing);
                prop_assert!(!command.argument.iter().any(|octet| b"\r\n\0".contains(octet)));
                if let Some(path) = &command.path {
                    prop_assert!(clean(&path.local_part) && clean(path.domain));
                    prop_assert!(path.local_part.len() + path.domain.len() < 256);
                    let again = format_mailbox(path, addresses).unwrap();
                    prop_assert!(again.len() < 255);
                    if !path.domain.is_empty() {
                        prop_assert_eq!(&parse_mailbox(again.as_bytes(), addresses).unwrap(), path);
                    }
                }
                let mut keywords: Vec<_> = command.parameters.iter().map(|(keyword, _)| keyword.to_uppercase()).collect();
                let count = keywords.len();
                keywords.sort();
                keywords.dedup();
                prop_assert_eq!(keywords.len(), count);
            }
        }
    }

    /// Every parameter that a naive reader sees, and no other; a set takes over where there are many.
    #[test]
    fn parameters_are_what_stands_between_spaces(words in vec("[A-Z]{1,3}(=[a-z0-9:;]{1,5})?", 0..40)) {
        let line = format!("MAIL FROM:<a@b.example> {}", words.join(" "));
        let command = parse_command(line.as_bytes(), Addresses::Strict);
        let keywords: Vec<_> = words.iter().map(|word| word.split('=').next().unwrap()).collect();
        let twice = (0..keywords.len()).find(|&at| keywords[..at].contains(&keywords[at]));
        match twice {
            Some(at) => {
                let offset = 24 + words[..at].iter().map(|word| word.len() + 1).sum::<usize>();
                prop_assert_eq!(command.fault, Some(FaultId::ParameterDuplicate.at(offset)));
            }
            None => {
                let read: Vec<_> = command
                    .parameters
                    .iter()
                    .map(|(keyword, value)| value.map_or(keyword.to_owned(), |value| format!("{keyword}={value}")))
                    .collect();
                prop_assert_eq!(read, words);
            }
        }
    }

    #[test]
    fn a_mailbox_that_can_be_written_reads_back(local in "\\PC{0,20}|[ -~]{0,20}", domain in "[a-z]{1,5}(\\.[a-z0-9é]{1,5}){0,3}") {
        let mailbox = Mailbox { local_part: Cow::Borrowed(&local), domain: &domain };
        let written = format_mailbox(&mailbox, Addresses::Strict).unwrap();
        prop_assert_eq!(&format_mailbox(&mailbox, Addresses::Lenient).unwrap(), &written);
        for addresses in [Addresses::Strict, Addresses::Lenient] {
            let read = parse_mailbox(written.as_bytes(), addresses);
            prop_assert_eq!(read.as_ref(), Ok(&mailbox));
        }
    }

    #[test]
    fn r17_a_mailbox_with_a_control_octet_cannot_be_written(before in "[a-z]{0,5}", octet in 0_u8..32, after in "[a-z]{0,5}") {
        let local = format!("{before}{}{after}", char::from(octet));
        let mailbox = Mailbox { local_part: Cow::Borrowed(&local), domain: "b.example" };
        prop_assert_eq!(format_mailbox(&mailbox, Addresses::Lenient), Err(FaultId::QuotedStringMalformed.at(before.len())));
    }

    #[test]
    fn r22_mailboxes_never_panic(octets in near()) {
        for addresses in [Addresses::Strict, Addresses::Lenient] {
            if let Err(fault) = parse_mailbox(&octets, addresses) {
                prop_assert!(fault.offset <= octets.len());
            }
        }
    }

    #[test]
    fn xtext_decodes_to_what_was_encoded(octets in vec(any::<u8>(), 0..40)) {
        let encoded = xtext_encode(&octets);
        prop_assert!(encoded.bytes().all(|octet| (33..=126).contains(&octet) && octet != b'='));
        prop_assert_eq!(xtext_decode(encoded.as_bytes()).unwrap().into_owned(), octets.clone());
        let _ = xtext_decode(&octets);
    }

    #[test]
    fn utf8_addr_xtext_decodes_to_what_was_encoded(text in "\\PC{0,20}", noise in "[\\\\x{}0-9A-F]{0,12}") {
        let encoded = utf8_addr_xtext_encode(&text).unwrap();
        prop_assert!(encoded.is_ascii() && !encoded.contains([' ', '+', '=']));
        prop_assert_eq!(utf8_addr_xtext_decode(&encoded).unwrap().into_owned(), text.clone());
        let _ = utf8_addr_xtext_decode(&noise);
    }

    #[test]
    fn a_reply_reads_back(
        code in proptest::sample::select(vec![220_u16, 250, 354, 421, 450, 550, 559]),
        coded in any::<bool>(),
        lines in vec("[ -~é]{0,30}", 1..5),
    ) {
        let class = code / 100;
        let enhanced = (coded && class != 3).then(|| format!("{class}.1.10"));
        let slices: Vec<_> = lines.iter().map(|line| line.as_bytes()).collect();
        let octets = format_reply(code, enhanced.as_deref(), &slices).unwrap();
        let reply = parse_reply(&octets).unwrap();
        prop_assert_eq!(reply.code, code);
        prop_assert_eq!(reply.lines.len(), lines.len());
        if enhanced.is_some() {
            prop_assert_eq!(reply.enhanced, enhanced.as_deref());
            prop_assert_eq!(reply.lines, slices);
        }
    }

    /// SECURITY R18: what comes out does not depend on the cuts, and what is held is bounded.
    #[test]
    fn r18_a_reader_does_not_see_the_cuts(
        pieces in vec(prop_oneof![
            proptest::sample::select(vec!["250 ok\r\n", "250-a\r\n", "250\r\n", "550 5.1.1 no\r\n", "2", "\r", "\n", "250"])
                .prop_map(|text| text.as_bytes().to_vec()),
            near(),
        ], 0..8),
        cuts in vec(1_usize..9, 1..50),
        octets in 1_usize..60,
        lines in 1_usize..4,
    ) {
        let limits = Limits { reply_octets: octets, reply_lines: lines, ..Limits::DEFAULT };
        let stream = pieces.concat();
        let (mut whole, mut events) = (ReplyReader::new(limits), Vec::new());
        feed(&mut whole, &stream, &mut events);
        let (mut cut, mut cut_events, mut rest) = (ReplyReader::new(limits), Vec::new(), &stream[..]);
        for size in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, remaining) = rest.split_at((*size).min(rest.len()));
            feed(&mut cut, piece, &mut cut_events);
            prop_assert!(cut.buffered() <= octets);
            rest = remaining;
        }
        prop_assert_eq!(&cut_events, &events);
        prop_assert_eq!(cut.buffered(), whole.buffered());
        if let Some(Ok((code, _))) = events.first() {
            prop_assert!((200..560).contains(code));
        }
        let faults = events.iter().filter(|event| event.is_err()).count();
        prop_assert!(faults == 0 || (faults == 1 && events.last().unwrap().is_err()));
    }

    #[test]
    fn header_fields_cover_the_section(
        pieces in vec(prop_oneof![
            proptest::sample::select(vec!["A: b\r\n", "Received: x\r\n", " folded\r\n", "\r\n", "B :", "C"])
                .prop_map(|text| text.as_bytes().to_vec()),
            near(),
        ], 0..10),
        header_octets in 0_usize..80,
        header_fields in 0_usize..5,
    ) {
        let data = pieces.concat();
        let limits = Limits { header_octets, header_fields, ..Limits::DEFAULT };
        let section = scan_header(&data, &limits);
        let mut at = 0;
        for field in &section.fields {
            prop_assert_eq!(field.start, at);
            prop_assert!(data[at..].starts_with(field.name.as_bytes()));
            prop_assert_eq!(data[field.value - 1], b':');
            prop_assert!(data[..field.end].ends_with(b"\r\n") || field.end == data.len());
            at = field.end;
        }
        prop_assert_eq!(section.end, at);
        prop_assert!(at <= header_octets && section.fields.len() <= header_fields);
        prop_assert!(section.fault.is_some() || at == data.len() || data[at..].starts_with(b"\r\n"));
        let received = section.fields.iter().filter(|field| field.name.eq_ignore_ascii_case("received")).count();
        prop_assert_eq!(section.received, received);
    }

    #[test]
    fn unfolding_drops_line_ends_before_white_space(
        pieces in vec(proptest::sample::select(vec!["\r\n", "\r\n ", "\r\n\t", "\r", "\n", " ", "x"]), 0..12),
    ) {
        let octets = pieces.concat().into_bytes();
        let mut expected = Vec::new();
        for (at, octet) in octets.iter().enumerate() {
            let fold = |start: usize| matches!(octets.get(start..start + 3), Some(b"\r\n " | b"\r\n\t"));
            if !(fold(at) || (at > 0 && fold(at - 1))) {
                expected.push(*octet);
            }
        }
        prop_assert_eq!(unfold(&octets).into_owned(), expected);
    }
}
