//! The framer: the events do not depend on how the input is cut, every octet is accounted for, memory is bounded, and
//! DATA ends only at its true end (SECURITY R1, R5, R7, R8, R22).
#![no_main]

use ironpost::address::Addresses;
use ironpost::command::Command;
use ironpost::data::Newline;
use ironpost::fault::Fault;
use ironpost::framer::{Body, BodyEnd, Events, Mode, ServerFramer};
use ironpost::limits::Limits;
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits {
    command_line: 80,
    auth_line: 40,
    held: usize::MAX,
    content: 200,
    ..Limits::DEFAULT
};
const MODES: [Mode; 4] = [Mode::Command, Mode::Data, Mode::Line, Mode::Closed];

#[derive(Default, PartialEq, Debug)]
struct Seen {
    events: Vec<String>,
    body: Vec<u8>,
}

impl Events for Seen {
    fn command(&mut self, command: &Command<'_>) {
        assert!(
            command.argument.len() < LIMITS.command_line,
            "a command is within its limit"
        );
        self.events.push(format!("{command:?}"));
    }
    fn body(&mut self, body: Body<'_>) {
        let octets = body.to_vec();
        assert!(
            !octets.is_empty() && octets.len() == body.plan().len(),
            "a piece of body has its announced length"
        );
        self.body.extend_from_slice(&octets);
    }
    fn body_end(&mut self, end: BodyEnd) {
        assert!(
            self.body.len() as u64 <= end.facts.size,
            "no more is returned than was counted"
        );
        let body = std::mem::take(&mut self.body);
        self.events.push(format!("{end:?} {body:?}"));
    }
    fn line(&mut self, octets: &[u8]) {
        assert!(octets.len() < LIMITS.auth_line, "a line is within its limit");
        self.events.push(format!("line {octets:?}"));
    }
    fn fault(&mut self, fault: Fault) {
        self.events.push(format!("{fault:?}"));
    }
}

/// The events, and the octets that are still stored at the end.
fn run(pieces: &[&[u8]], newline: Newline, mut modes: u32) -> (Seen, usize, bool) {
    let mut framer = ServerFramer::new(LIMITS, newline, Addresses::Lenient);
    let mut seen = Seen::default();
    for piece in pieces {
        framer
            .feed(piece, &mut seen)
            .expect("the limit of stored octets is out of reach");
        while framer.held() && modes > 1 {
            let before = framer.buffered();
            framer.resume(MODES[(modes & 3) as usize], &mut seen).expect("held");
            modes >>= 2;
            assert!(framer.buffered() <= before, "resuming reads, or holds again");
        }
        assert!(framer.held() || framer.buffered() == 0, "only a held framer stores");
    }
    (seen, framer.buffered(), framer.held())
}

fuzz_target!(|input: (u8, u32, Vec<u8>, &[u8])| {
    let (newline, modes, cuts, data) = input;
    let newline = [Newline::Reject, Newline::Normalise, Newline::Accept][usize::from(newline % 3)];
    let mut pieces = Vec::new();
    let mut rest = data;
    for cut in cuts {
        let (piece, tail) = rest.split_at(usize::from(cut).min(rest.len()));
        pieces.push(piece);
        rest = tail;
    }
    pieces.push(rest);
    let whole = run(&[data], newline, modes);
    assert_eq!(whole, run(&pieces, newline, modes), "cut in pieces");
    assert_eq!(
        whole,
        run(&data.chunks(1).collect::<Vec<_>>(), newline, modes),
        "octet by octet"
    );
});
