//! The vectors of framing (`tests/vectors/data.toml`, `stuffing.toml`, `framer.toml`) and of canonical forms
//! (`canonical.toml`): each whole, cut in two at every point, octet by octet, with a tail, and after padding that moves it
//! across the borders of blocks.

use std::fs;
use std::path::Path;

use ironpost::address::Addresses;
use ironpost::canonical::{BodyCanonicaliser, canonical_field};
use ironpost::command::Command;
use ironpost::data::{DataDecoder, DataEncoder, Facts, Newline, Plan, dot_stuff, dot_unstuff};
use ironpost::fault::Fault;
use ironpost::framer::{Body, BodyEnd, Events, Mode, ServerFramer};
use ironpost::limits::Limits;
use ironpost::scan::Kernel;
use toml::{Table, Value};

/// Octets of padding that put a vector at, before and after the borders of blocks of 16, 32, 64 and 128.
const PADDINGS: [usize; 15] = [0, 12, 13, 14, 15, 16, 28, 30, 31, 59, 61, 62, 63, 64, 127];

fn vectors(file: &str) -> Vec<Table> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(file);
    let table: Table = fs::read_to_string(path).unwrap().parse().unwrap();
    let vectors: Vec<Table> = table["vector"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_table().unwrap().clone())
        .collect();
    assert!(vectors.len() > 10, "{file} holds its vectors");
    vectors
}

/// A string of the vectors is a sequence of octets.
fn octets(value: &Value) -> Vec<u8> {
    value
        .as_str()
        .unwrap()
        .chars()
        .map(|octet| u8::try_from(octet as u32).unwrap())
        .collect()
}

fn newline(vector: &Table, default: Newline) -> Newline {
    match vector.get("newline").map(|name| name.as_str().unwrap()) {
        None => default,
        Some("reject") => Newline::Reject,
        Some("normalise") => Newline::Normalise,
        Some("accept") => Newline::Accept,
        Some(name) => panic!("no policy: {name}"),
    }
}

fn flag(table: &Table, key: &str) -> bool {
    table.get(key).is_some_and(|value| value.as_bool().unwrap())
}

fn number(table: &Table, key: &str) -> Option<u64> {
    table
        .get(key)
        .map(|value| u64::try_from(value.as_integer().unwrap()).unwrap())
}

/// `padding` octets before the body: one line, so that the rest starts at the start of a line.
fn facts(table: &Table, padding: usize) -> Facts {
    let padding = padding as u64;
    Facts {
        size: number(table, "size").unwrap() + padding,
        eight_bit: flag(table, "eight_bit"),
        nul: flag(table, "nul"),
        bare_cr: flag(table, "bare_cr"),
        bare_lf: flag(table, "bare_lf"),
        longest_line: number(table, "longest_line").unwrap().max(padding.saturating_sub(2)),
        header_size: number(table, "header_size").map(|size| size + padding),
    }
}

/// A line of `length` octets, CRLF included.
fn padding(length: usize) -> Vec<u8> {
    let mut line = vec![b'p'; length];
    if length > 0 {
        line[length - 2..].copy_from_slice(b"\r\n");
    }
    line
}

/// The ways to cut `data`: whole, in two at every point, octet by octet.
fn cuttings(data: &[u8]) -> Vec<Vec<&[u8]>> {
    let mut all = vec![vec![data], data.chunks(1).collect()];
    all.extend((0..=data.len()).map(|at| vec![&data[..at], &data[at..]]));
    all
}

#[test]
fn data_vectors() {
    for vector in vectors("data.toml") {
        let name = vector["name"].as_str().unwrap();
        let newline = newline(&vector, Newline::Reject);
        for length in PADDINGS {
            let padding = padding(length);
            let input = [&padding[..], &octets(&vector["input"])].concat();
            let body = [&padding[..], &octets(&vector["body"])].concat();
            let end = number(&vector, "end").map(|end| end as usize + length);
            let facts = facts(vector["facts"].as_table().unwrap(), length);
            for kernel in Kernel::available() {
                for tail in [&b""[..], b"MAIL FROM:<>\r\n.\r\n\n\0\xff"] {
                    if !tail.is_empty() && end.is_none() {
                        continue;
                    }
                    for pieces in cuttings(&[&input[..], tail].concat()) {
                        let mut decoder = DataDecoder::with_kernel(newline, u64::MAX, kernel);
                        let (mut plan, mut out, mut consumed) = (Plan::default(), Vec::new(), 0);
                        for piece in pieces {
                            consumed += decoder.feed(piece, &mut plan).consumed;
                            plan.append(piece, &mut out);
                        }
                        assert_eq!(out, body, "{name}");
                        assert_eq!(decoder.finished().then_some(consumed), end, "{name}");
                        assert_eq!(decoder.facts(), facts, "{name}");
                    }
                }
            }
        }
    }
}

fn fault_of(vector: &Table) -> Option<(String, usize)> {
    let fault = vector.get("fault")?;
    Some((
        fault["id"].as_str().unwrap().to_owned(),
        usize::try_from(fault["offset"].as_integer().unwrap()).unwrap(),
    ))
}

fn encode(pieces: &[&[u8]], newline: Newline, kernel: Kernel) -> Result<Vec<u8>, Fault> {
    let mut encoder = DataEncoder::with_kernel(newline, kernel);
    let (mut plan, mut out) = (Plan::default(), Vec::new());
    for piece in pieces {
        encoder.feed(piece, &mut plan)?;
        plan.append(piece, &mut out);
    }
    out.extend_from_slice(encoder.finish()?);
    Ok(out)
}

#[test]
fn stuffing_vectors() {
    for vector in vectors("stuffing.toml") {
        let name = vector["name"].as_str().unwrap();
        for length in PADDINGS {
            let padding = padding(length);
            let padded = |key: &str| [&padding[..], &octets(&vector[key])].concat();
            if vector.contains_key("plain") {
                let (plain, stuffed) = (padded("plain"), padded("stuffed"));
                let (mut there, mut back) = (Vec::new(), Vec::new());
                dot_stuff(&plain).append(&plain, &mut there);
                dot_unstuff(&stuffed).append(&stuffed, &mut back);
                assert_eq!((there, back), (stuffed, plain), "{name}");
                continue;
            }
            let newline = newline(&vector, Newline::Normalise);
            for kernel in Kernel::available() {
                for pieces in cuttings(&padded("body")) {
                    let result = encode(&pieces, newline, kernel);
                    match fault_of(&vector) {
                        Some((id, offset)) => {
                            let fault = result.unwrap_err();
                            assert_eq!((fault.id.id(), fault.offset), (&id[..], offset + length), "{name}");
                        }
                        None => assert_eq!(result.unwrap(), padded("wire"), "{name}"),
                    }
                }
            }
        }
    }
}

#[test]
fn canonical_vectors() {
    for vector in vectors("canonical.toml") {
        let name = vector["name"].as_str().unwrap();
        for (form, relaxed) in [("simple", false), ("relaxed", true)] {
            if let Some(field) = vector.get("field") {
                match (canonical_field(&octets(field), relaxed), vector.get(form)) {
                    (Ok(canonical), Some(expected)) => assert_eq!(canonical, octets(expected), "{name}"),
                    (result, _) => {
                        let fault = result.unwrap_err();
                        assert_eq!(
                            Some((fault.id.id().to_owned(), fault.offset)),
                            fault_of(&vector),
                            "{name}"
                        );
                    }
                }
                continue;
            }
            for length in PADDINGS {
                let padding = padding(length);
                let body = [&padding[..], &octets(&vector["body"])].concat();
                let mut expected = [&padding[..], &octets(&vector[form])].concat();
                if length > 0 && expected[length..] == *b"\r\n" {
                    expected.truncate(length); // the line that an empty body has
                }
                for kernel in Kernel::available() {
                    for pieces in cuttings(&body) {
                        let mut canonicaliser = BodyCanonicaliser::with_kernel(relaxed, kernel);
                        let mut out = Vec::new();
                        for piece in pieces {
                            canonicaliser.feed(piece).append(&mut out);
                        }
                        canonicaliser.finish().append(&mut out);
                        assert_eq!(out, expected, "{name}, {form}, {kernel:?}");
                    }
                }
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    Command(String, Vec<u8>, Option<String>),
    Body(Vec<u8>),
    End(BodyEnd),
    Line(Vec<u8>),
    Fault(String, usize),
}

#[derive(Default)]
struct Seen(Vec<Event>);

impl Events for Seen {
    fn command(&mut self, command: &Command<'_>) {
        let fault = command.fault.map(|fault| fault.id.id().to_owned());
        self.0.push(Event::Command(
            command.verb.name().into_owned(),
            command.argument.to_vec(),
            fault,
        ));
    }
    fn body(&mut self, body: Body<'_>) {
        match self.0.last_mut() {
            Some(Event::Body(octets)) => octets.extend(body.to_vec()),
            _ => self.0.push(Event::Body(body.to_vec())),
        }
    }
    fn body_end(&mut self, end: BodyEnd) {
        self.0.push(Event::End(end));
    }
    fn line(&mut self, octets: &[u8]) {
        self.0.push(Event::Line(octets.to_vec()));
    }
    fn fault(&mut self, fault: Fault) {
        self.0.push(Event::Fault(fault.id.id().to_owned(), fault.offset));
    }
}

fn event(event: &Value) -> Event {
    let table = event.as_table().unwrap();
    match table["type"].as_str().unwrap() {
        "command" => Event::Command(
            table["verb"].as_str().unwrap().to_owned(),
            octets(&table["argument"]),
            table.get("fault").map(|id| id.as_str().unwrap().to_owned()),
        ),
        "body" => Event::Body(octets(&table["octets"])),
        "end" => Event::End(BodyEnd {
            last: flag(table, "last"),
            facts: facts(table, 0),
        }),
        "line" => Event::Line(octets(&table["octets"])),
        "fault" => Event::Fault(
            table["id"].as_str().unwrap().to_owned(),
            number(table, "offset").unwrap() as usize,
        ),
        other => panic!("no event: {other}"),
    }
}

fn limits(vector: &Table) -> Limits {
    let mut limits = Limits::DEFAULT;
    for (key, value) in vector
        .get("limits")
        .map(|limits| limits.as_table().unwrap().clone())
        .unwrap_or_default()
    {
        let value = value.as_integer().unwrap() as usize;
        match &key[..] {
            "command_line" => limits.command_line = value,
            "auth_line" => limits.auth_line = value,
            "held" => limits.held = value,
            "content" => limits.content = value as u64,
            _ => panic!("no limit: {key}"),
        }
    }
    limits
}

/// Feeds the pieces; at each hold the next mode is given, whether it comes after the piece or between two of them.
fn run(mut framer: ServerFramer, pieces: &[&[u8]], modes: &[Mode]) -> Vec<Event> {
    let mut seen = Seen::default();
    let mut modes = modes.iter();
    for piece in pieces {
        framer.feed(piece, &mut seen).unwrap();
        while framer.held() {
            let Some(mode) = modes.next() else { break };
            framer.resume(*mode, &mut seen).unwrap();
        }
    }
    seen.0
}

#[test]
fn framer_vectors() {
    for vector in vectors("framer.toml") {
        let name = vector["name"].as_str().unwrap();
        let input = octets(&vector["input"]);
        let expected: Vec<Event> = vector["events"].as_array().unwrap().iter().map(event).collect();
        let modes: Vec<Mode> = vector
            .get("resume")
            .map(|modes| modes.as_array().unwrap().clone())
            .unwrap_or_default()
            .iter()
            .map(|mode| match mode.as_str().unwrap() {
                "command" => Mode::Command,
                "data" => Mode::Data,
                "line" => Mode::Line,
                "closed" => Mode::Closed,
                other => panic!("no mode: {other}"),
            })
            .collect();
        let (limits, newline) = (limits(&vector), newline(&vector, Newline::Reject));
        let addresses = match flag(&vector, "lenient") {
            true => Addresses::Lenient,
            false => Addresses::Strict,
        };
        let chunking = vector.get("chunking").and_then(|value| value.as_bool()) != Some(false);
        let framer = || match ServerFramer::new(limits, newline, addresses) {
            framer if chunking => framer,
            framer => framer.without_chunking(),
        };
        for lines in 0..12 {
            // Padding that starts nothing and holds nothing; nine octets walk over every offset in a block.
            let padded = [&b"NOOP 12\r\n".repeat(lines)[..], &input].concat();
            let mut events = vec![Event::Command("NOOP".into(), b"12".to_vec(), None); lines];
            events.extend_from_slice(&expected);
            for pieces in cuttings(&padded) {
                assert_eq!(run(framer(), &pieces, &modes), events, "{name}");
            }
        }
    }
}

#[test]
fn an_idle_framer_and_a_held_one_account_for_every_octet() {
    let mut framer = ServerFramer::new(
        Limits {
            held: 10,
            ..Limits::DEFAULT
        },
        Newline::Reject,
        Addresses::Strict,
    );
    let mut seen = Seen::default();
    framer.feed(b"DATA\r\nabc", &mut seen).unwrap();
    assert!(framer.held());
    assert_eq!((framer.buffered(), seen.0.len()), (3, 1));
    framer.feed(b"defghij", &mut seen).unwrap();
    assert_eq!(framer.buffered(), 10);
    let refused = framer.feed(b"k", &mut seen).unwrap_err();
    assert!(refused.to_string().contains("10 octets of at most 10"), "{refused}");
    assert_eq!(framer.buffered(), 10, "nothing of a refused piece is taken");
    framer.resume(Mode::Data, &mut seen).unwrap();
    assert_eq!(
        (framer.buffered(), seen.0.pop()),
        (0, Some(Event::Body(b"abcdefghij".to_vec())))
    );
    assert!(
        framer
            .resume(Mode::Command, &mut seen)
            .unwrap_err()
            .to_string()
            .contains("not held")
    );
}
