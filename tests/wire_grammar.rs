//! The grammar against the vectors that Rust and Python share (`tests/vectors/*.toml`).

use std::fs;

use ironpost::address::{Addresses, Tolerated, format_mailbox, parse_mailbox};
use ironpost::command::parse_command;
use ironpost::ehlo::parse_ehlo;
use ironpost::fault::Fault;
use ironpost::header::{scan_header, unfold};
use ironpost::limits::Limits;
use ironpost::reply::{ReplyReader, parse_reply};
use ironpost::xtext::{utf8_addr_xtext_decode, utf8_addr_xtext_encode, xtext_decode, xtext_encode};
use toml::{Table, Value};

/// A reply as its code and lines, or the fault that ended the reading.
type Event = Result<(u16, Vec<Vec<u8>>), Fault>;

/// The vectors of a file; at least as many as there were when this was written.
fn vectors(file: &str, at_least: usize) -> Vec<Table> {
    let path = format!("{}/tests/vectors/{file}.toml", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let table: Table = text.parse().unwrap_or_else(|error| panic!("{path}: {error}"));
    let vectors: Vec<Table> = table["vector"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_table().unwrap().clone())
        .collect();
    assert!(vectors.len() >= at_least, "{path} has lost vectors");
    vectors
}

/// A string of the vectors: a code point is an octet.
fn octets(value: &Value) -> Vec<u8> {
    value
        .as_str()
        .unwrap()
        .chars()
        .map(|c| u8::try_from(u32::from(c)).unwrap())
        .collect()
}

fn text(value: &Value) -> String {
    String::from_utf8(octets(value)).unwrap()
}

fn number(value: &Value) -> usize {
    usize::try_from(value.as_integer().unwrap()).unwrap()
}

fn expected_fault(vector: &Table) -> Option<(String, usize)> {
    let fault = vector.get("fault")?;
    Some((text(&fault["id"]), number(&fault["offset"])))
}

fn found(fault: Option<Fault>) -> Option<(String, usize)> {
    fault.map(|fault| (fault.id.id().to_owned(), fault.offset))
}

/// How a vector is to be read.
fn addresses(vector: &Table) -> Addresses {
    match vector.get("lenient") {
        Some(Value::Boolean(true)) => Addresses::Lenient,
        _ => Addresses::Strict,
    }
}

fn tolerated(vector: &Table) -> Tolerated {
    let names = vector.get("tolerated").map_or(vec![], |names| {
        names
            .as_array()
            .unwrap()
            .iter()
            .map(|name| name.as_str().unwrap())
            .collect()
    });
    Tolerated {
        underscore: names.contains(&"underscore"),
        stray_dots: names.contains(&"stray_dots"),
    }
}

#[test]
fn commands() {
    for vector in vectors("command", 303) {
        let name = &vector["name"];
        let input = octets(&vector["input"]);
        let command = parse_command(&input, addresses(&vector));
        assert_eq!(command.tolerated, tolerated(&vector), "{name}");
        if command.fault.is_none() && command.tolerated == Tolerated::default() {
            assert_eq!(parse_command(&input, Addresses::Lenient), command, "{name}");
            assert_eq!(parse_command(&input, Addresses::Strict), command, "{name}");
        }
        assert_eq!(found(command.fault), expected_fault(&vector), "{name}");
        if command.fault.is_some() {
            assert!(command.path.is_none() && command.parameters.is_empty(), "{name}");
            assert!(command.domain.is_none() && command.chunk.is_none(), "{name}");
            continue;
        }
        assert_eq!(command.verb.name(), vector["verb"].as_str().unwrap(), "{name}");
        assert_eq!(command.argument, octets(&vector["argument"]), "{name}");
        let path = command
            .path
            .map(|path| vec![path.local_part.into_owned(), path.domain.to_owned()]);
        let expected: Option<Vec<_>> = vector
            .get("path")
            .map(|path| path.as_array().unwrap().iter().map(text).collect());
        assert_eq!(path, expected, "{name}");
        let mut parameters: Vec<_> = command
            .parameters
            .iter()
            .map(|(keyword, value)| (keyword.to_ascii_uppercase(), value.map(str::to_owned)))
            .collect();
        let mut expected: Vec<_> = vector.get("parameters").map_or(vec![], |table| {
            table
                .as_table()
                .unwrap()
                .iter()
                .map(|(keyword, value)| (keyword.clone(), Some(text(value))))
                .collect()
        });
        if let Some(bare) = vector.get("bare") {
            expected.extend(bare.as_array().unwrap().iter().map(|keyword| (text(keyword), None)));
        }
        parameters.sort();
        expected.sort();
        assert_eq!(parameters, expected, "{name}");
        assert_eq!(
            command.domain.map(str::to_owned),
            vector.get("domain").map(text),
            "{name}"
        );
        let chunk = command.chunk.map(|chunk| (chunk.size as i64, chunk.last));
        let expected = vector
            .get("chunk")
            .map(|chunk| (chunk["size"].as_integer().unwrap(), chunk["last"].as_bool().unwrap()));
        assert_eq!(chunk, expected, "{name}");
    }
}

#[test]
fn commands_mean_the_same_with_and_without_crlf() {
    for vector in vectors("command", 303) {
        let input = octets(&vector["input"]);
        let Some(line) = input.strip_suffix(b"\r\n") else {
            continue;
        };
        if line.ends_with(b"\r\n") {
            continue;
        }
        let read = |line| parse_command(line, addresses(&vector));
        assert_eq!(read(line), read(&input[..]), "{}", vector["name"]);
    }
}

#[test]
fn mailboxes() {
    for vector in vectors("mailbox", 60) {
        let name = &vector["name"];
        let input = octets(&vector["input"]);
        match parse_mailbox(&input, addresses(&vector)) {
            Err(fault) => assert_eq!(found(Some(fault)), expected_fault(&vector), "{name}"),
            Ok(mailbox) => {
                assert_eq!(None, expected_fault(&vector), "{name}");
                assert_eq!(
                    parse_mailbox(&input, Addresses::Lenient).as_ref(),
                    Ok(&mailbox),
                    "{name}"
                );
                assert_eq!(mailbox.local_part, text(&vector["local_part"]), "{name}");
                assert_eq!(mailbox.domain, text(&vector["domain"]), "{name}");
                let written = format_mailbox(&mailbox, addresses(&vector)).unwrap();
                assert_eq!(
                    written,
                    text(vector.get("written").unwrap_or(&vector["input"])),
                    "{name}"
                );
                let again = parse_mailbox(written.as_bytes(), addresses(&vector));
                assert_eq!(again.as_ref(), Ok(&mailbox), "{name}");
            }
        }
    }
}

#[test]
fn replies_whole() {
    for vector in vectors("reply", 51) {
        let name = &vector["name"];
        let input = octets(&vector["input"]);
        match parse_reply(&input) {
            Err(fault) => assert_eq!(found(Some(fault)), expected_fault(&vector), "{name}"),
            Ok(reply) => {
                assert_eq!(None, expected_fault(&vector), "{name}");
                assert_eq!(usize::from(reply.code), number(&vector["code"]), "{name}");
                assert_eq!(
                    reply.enhanced.map(str::to_owned),
                    vector.get("enhanced").map(text),
                    "{name}"
                );
                let lines: Vec<_> = vector["lines"].as_array().unwrap().iter().map(octets).collect();
                assert_eq!(reply.lines, lines, "{name}");
            }
        }
    }
}

/// What a reader makes of pieces: each reply as its parts, and the fault that ended it.
fn read(reader: &mut ReplyReader, pieces: &[&[u8]]) -> Vec<Event> {
    let mut events = Vec::new();
    for piece in pieces {
        reader.feed(piece, &mut |event| {
            events.push(event.map(|reply| (reply.code, reply.lines.iter().map(|line| line.to_vec()).collect())));
        });
    }
    events
}

#[test]
fn r18_replies_split_anywhere_read_the_same() {
    const TAIL: &[u8] = b"220 next\r\n";
    for vector in vectors("reply", 51) {
        let name = &vector["name"];
        let input = octets(&vector["input"]);
        if !input.ends_with(b"\r\n") {
            continue; // a reader waits for the end of the line
        }
        let whole = parse_reply(&input);
        let stream = [&input, TAIL].concat();
        let mut reader = ReplyReader::new(Limits::DEFAULT);
        let events = read(&mut reader, &[&stream]);
        if let Ok(reply) = &whole {
            assert_eq!(events.len(), 2, "{name}");
            assert_eq!(events[0].as_ref().unwrap().1, reply.lines, "{name}");
            assert_eq!(reader.buffered(), 0, "{name}");
        }
        let split_at = |at| read(&mut ReplyReader::new(Limits::DEFAULT), &[&stream[..at], &stream[at..]]);
        for at in 0..=stream.len().min(600) {
            assert_eq!(split_at(at), events, "{name}, split at {at}");
        }
        let single: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(
            read(&mut ReplyReader::new(Limits::DEFAULT), &single),
            events,
            "{name}, octet by octet"
        );
    }
}

#[test]
fn ehlo_lists() {
    for vector in vectors("ehlo", 14) {
        let name = &vector["name"];
        let input = octets(&vector["reply"]);
        match parse_ehlo(&parse_reply(&input).unwrap()) {
            Err(fault) => assert_eq!(found(Some(fault)), expected_fault(&vector), "{name}"),
            Ok(ehlo) => {
                assert_eq!(None, expected_fault(&vector), "{name}");
                assert_eq!(ehlo.domain, text(&vector["domain"]), "{name}");
                let mut extensions = ehlo.extensions;
                extensions.sort();
                let expected = vector["extensions"].as_table().unwrap();
                let mut expected: Vec<_> = expected
                    .iter()
                    .map(|(keyword, value)| (keyword.clone(), text(value)))
                    .collect();
                expected.sort();
                assert_eq!(extensions, expected, "{name}");
            }
        }
    }
}

#[test]
fn encodings() {
    for vector in vectors("xtext", 32) {
        let name = &vector["name"];
        let utf8_addr = vector
            .get("form")
            .is_some_and(|form| form.as_str() == Some("utf-8-addr"));
        let encoded = vector.get("encoded").map(octets);
        let plain = vector.get("plain").or(vector.get("decoded")).map(octets);
        if let Some(encoded) = &encoded {
            let decoded = if utf8_addr {
                utf8_addr_xtext_decode(std::str::from_utf8(encoded).unwrap()).map(|text| text.as_bytes().to_vec())
            } else {
                xtext_decode(encoded).map(|octets| octets.into_owned())
            };
            assert_eq!(
                found(decoded.as_ref().err().copied()),
                expected_fault(&vector),
                "{name}"
            );
            assert_eq!(decoded.ok(), plain, "{name}");
        }
        if let Some(plain) = vector.get("plain").map(octets) {
            let written = if utf8_addr {
                utf8_addr_xtext_encode(std::str::from_utf8(&plain).unwrap())
            } else {
                Ok(xtext_encode(&plain))
            };
            let fault = if encoded.is_none() {
                expected_fault(&vector)
            } else {
                None
            };
            assert_eq!(found(written.as_ref().err().copied()), fault, "{name}");
            assert_eq!(written.ok().map(|text| text.as_bytes().to_vec()), encoded, "{name}");
        }
    }
}

#[test]
fn header_sections() {
    for vector in vectors("header", 27) {
        let name = &vector["name"];
        let input = octets(&vector["input"]);
        let mut limits = Limits::DEFAULT;
        for (key, value) in vector.get("limits").and_then(Value::as_table).into_iter().flatten() {
            match key.as_str() {
                "header_octets" => limits.header_octets = number(value),
                "header_fields" => limits.header_fields = number(value),
                other => panic!("{name}: unknown limit {other}"),
            }
        }
        let section = scan_header(&input, &limits);
        assert_eq!(found(section.fault), expected_fault(&vector), "{name}");
        assert_eq!(
            (section.end, section.received),
            (number(&vector["end"]), number(&vector["received"])),
            "{name}"
        );
        let fields: Vec<_> = section
            .fields
            .iter()
            .map(|f| (f.name.to_owned(), input[f.value..f.end].to_vec()))
            .collect();
        let expected = vector["fields"].as_array().unwrap();
        let expected: Vec<_> = expected
            .iter()
            .map(|field| (text(&field[0]), octets(&field[1])))
            .collect();
        assert_eq!(fields, expected, "{name}");
        let mut start = 0;
        for field in &section.fields {
            assert_eq!(field.start, start, "{name}");
            start = field.end;
        }
        if let Some(unfolded) = vector.get("unfolded") {
            let values: Vec<_> = fields
                .iter()
                .map(|(_, value)| unfold(value.strip_suffix(b"\r\n").unwrap_or(value)).into_owned())
                .collect();
            let expected: Vec<_> = unfolded.as_array().unwrap().iter().map(octets).collect();
            assert_eq!(values, expected, "{name}");
        }
    }
}
