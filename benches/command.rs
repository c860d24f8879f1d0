//! One MAIL command with three parameters: this crate against smtp-proto, each verified before it is timed.
//!
//! Run: `cargo bench --bench command`.

#![allow(missing_docs)] // of what the macros of criterion write

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use ironpost::address::Addresses;
use ironpost::command::{Verb, parse_command};
use smtp_proto::Request;

const LINE: &[u8] = b"MAIL FROM:<user+tag@mail.example.org> SIZE=12345 BODY=8BITMIME SMTPUTF8\r\n";

fn verify() {
    let command = parse_command(LINE, Addresses::Strict);
    let path = command.path.expect("a path");
    assert_eq!(command.verb, Verb::Mail);
    assert_eq!(
        (path.local_part.as_ref(), path.domain),
        ("user+tag", "mail.example.org")
    );
    let parameters: Vec<_> = command.parameters.iter().collect();
    assert_eq!(
        parameters,
        [("SIZE", Some("12345")), ("BODY", Some("8BITMIME")), ("SMTPUTF8", None)]
    );
    match Request::parse(&mut LINE.iter()).expect("a request") {
        Request::Mail { from } => assert_eq!((from.address.as_ref(), from.size), ("user+tag@mail.example.org", 12345)),
        other => panic!("{other:?}"),
    }
}

fn command(criterion: &mut Criterion) {
    verify();
    let mut group = criterion.benchmark_group("MAIL with parameters");
    group.bench_function("ironpost", |bencher| {
        bencher.iter(|| parse_command(black_box(LINE), Addresses::Strict))
    });
    group.bench_function("ironpost, parameters read", |bencher| {
        bencher.iter(|| {
            let command = parse_command(black_box(LINE), Addresses::Strict);
            command.parameters.iter().filter(|(_, value)| value.is_some()).count()
        });
    });
    group.bench_function("smtp-proto", |bencher| {
        bencher.iter(|| Request::parse(&mut black_box(LINE).iter()))
    });
    group.finish();
}

criterion_group!(benches, command);
criterion_main!(benches);
