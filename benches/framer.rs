//! The server's framer: 100 pipelined transactions in one read, by DATA and by BDAT, and one command in each read. The
//! events are counted and checked before anything is timed.
//!
//! Run: `cargo bench --bench framer`.

#![allow(missing_docs)] // criterion_group! makes a public function

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ironpost::address::Addresses;
use ironpost::command::Command;
use ironpost::data::Newline;
use ironpost::fault::Fault;
use ironpost::framer::{Body, BodyEnd, Events, Mode, ServerFramer};
use ironpost::limits::Limits;

const BODY: &[u8] = b"Subject: bench\r\n\r\nHello,\r\nthis is a short message.\r\n";

#[derive(Default, Debug, PartialEq, Eq)]
struct Count {
    commands: usize,
    octets: usize,
    messages: usize,
    faults: usize,
}

impl Events for Count {
    fn command(&mut self, command: &Command<'_>) {
        self.commands += 1;
        self.faults += usize::from(command.fault.is_some());
    }
    fn body(&mut self, body: Body<'_>) {
        self.octets += body.plan().len();
    }
    fn body_end(&mut self, end: BodyEnd) {
        self.messages += usize::from(end.last);
    }
    fn line(&mut self, _: &[u8]) {}
    fn fault(&mut self, _: Fault) {
        self.faults += 1;
    }
}

fn session(chunking: bool) -> Vec<u8> {
    let mut input = b"EHLO client.example.org\r\n".to_vec();
    for i in 0..100 {
        let envelope = format!(
            "MAIL FROM:<user+tag@mail.example.org> SIZE=12345 BODY=8BITMIME SMTPUTF8\r\nRCPT TO:<rcpt{i}@example.net>\r\n"
        );
        input.extend_from_slice(envelope.as_bytes());
        if chunking {
            input.extend_from_slice(format!("BDAT {} LAST\r\n", BODY.len()).as_bytes());
            input.extend_from_slice(BODY);
        } else {
            input.extend_from_slice(b"DATA\r\n");
            input.extend_from_slice(BODY);
            input.extend_from_slice(b".\r\n");
        }
    }
    input
}

fn run(input: &[u8]) -> Count {
    let mut count = Count::default();
    let mut framer = ServerFramer::new(Limits::DEFAULT, Newline::Reject, Addresses::Strict);
    framer.feed(input, &mut count).expect("not held");
    while framer.held() {
        framer.resume(Mode::Data, &mut count).expect("held");
    }
    count
}

fn benches(criterion: &mut Criterion) {
    let expected = Count {
        commands: 301,
        octets: 100 * BODY.len(),
        messages: 100,
        faults: 0,
    };
    let mut group = criterion.benchmark_group("framer");
    for (name, chunking) in [("DATA", false), ("BDAT", true)] {
        let input = session(chunking);
        assert_eq!(run(&input), expected);
        group.throughput(Throughput::Elements(100));
        group.bench_function(format!("100 pipelined transactions, {name}"), |b| {
            b.iter(|| run(black_box(&input)))
        });
    }

    let line = b"RCPT TO:<rcpt@example.netxx>\r\n";
    let mut framer = ServerFramer::new(Limits::DEFAULT, Newline::Reject, Addresses::Strict);
    let mut count = Count::default();
    framer.feed(line, &mut count).expect("not held");
    assert_eq!((count.commands, count.faults), (1, 0));
    group.throughput(Throughput::Elements(1));
    group.bench_function("one command of 30 octets in each feed", |b| {
        b.iter(|| framer.feed(black_box(line), &mut count));
    });
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
