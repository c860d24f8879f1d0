//! DATA transparency: decoding and encoding 10 MB of 76-character lines with a stuffed dot every 64 lines, in pieces of
//! 64 KiB, against smtp-proto's DataReceiver and against a version of our own on the memchr crate. Each benchmark shows
//! that its answer is right before it is timed.
//!
//! Run: `cargo bench --bench data`.
//!
//! Figures, best of 60 runs of the same loops outside criterion (AMD EPYC with AVX-512, 2 cores shared with other work,
//! rustc 1.95, 23 November 2026), 10 MB, output into one reused `Vec`:
//!
//! | | ms | GB/s |
//! |---|---|---|
//! | copy, nothing else | 0.34 | 29 |
//! | smtp-proto 0.2.5, memmem for LF and dot, no checks | 0.51 | 19.6 |
//! | ironpost AVX-512: all checks (the scan alone: 0.67) | 1.14 | 8.7 |
//! | ironpost AVX2 (0.94) | 1.43 | 7.0 |
//! | ironpost SSE2 (1.59) | 2.12 | 4.7 |
//! | ironpost portable (5.37) | 6.27 | 1.6 |
//! | smtp-proto 0.2.0, octet by octet, no checks (a separate program, run directly afterwards) | 10.96 | 0.9 |
//! | on the memchr crate, all checks, whole input at once (a later run, in which AVX-512 took 1.13) | 3.62 | 2.8 |
//!
//! So ours is 9.6 times as fast as smtp-proto 0.2.0, and takes 2.2 times as long as 0.2.5, the version that "0.2" means
//! now. Eight times 0.2.5 would be five times the rate of copying. Own kernels were kept over memchr for the factor of
//! three.

#![allow(missing_docs)] // criterion_group! makes a public function

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ironpost::data::{DataDecoder, DataEncoder, Newline, Plan, dot_stuff};
use ironpost::scan::Kernel;
use smtp_proto::request::receiver::DataReceiver;

const PIECE: usize = 65536;

fn body() -> Vec<u8> {
    let line = [&[b'x'; 76][..], b"\r\n"].concat();
    let dotted = [b".", &[b'y'; 75][..], b"\r\n"].concat();
    let mut body = b"Subject: bench\r\n\r\n".to_vec();
    while body.len() < 10_000_000 {
        for _ in 0..63 {
            body.extend_from_slice(&line);
        }
        body.extend_from_slice(&dotted);
    }
    body
}

fn wire(body: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    dot_stuff(body).append(body, &mut wire);
    wire.extend_from_slice(b".\r\n");
    wire
}

fn decode(wire: &[u8], kernel: Kernel, out: &mut Vec<u8>) -> bool {
    out.clear();
    let mut decoder = DataDecoder::with_kernel(Newline::Reject, u64::MAX, kernel);
    let mut plan = Plan::default();
    for piece in wire.chunks(PIECE) {
        decoder.feed(piece, &mut plan);
        plan.append(piece, out);
    }
    decoder.finished()
}

fn encode(body: &[u8], out: &mut Vec<u8>) {
    out.clear();
    let mut encoder = DataEncoder::new(Newline::Normalise);
    let mut plan = Plan::default();
    for piece in body.chunks(PIECE) {
        encoder.feed(piece, &mut plan).expect("normalising refuses nothing");
        plan.append(piece, out);
    }
    out.extend_from_slice(encoder.finish().expect("normalising refuses nothing"));
}

/// Drops the dots and finds the end, and checks nothing (no bare CR or LF, NUL, 8-bit, line length, header section).
fn decode_smtp_proto(wire: &[u8], out: &mut Vec<u8>) -> bool {
    out.clear();
    let mut receiver = DataReceiver::new();
    wire.chunks(PIECE).any(|piece| receiver.ingest(&mut piece.iter(), out))
}

/// The same checks as ours, with what the memchr crate offers: a memchr for each line end, and a second and third look
/// at each run for CR, NUL and 8-bit.
fn decode_memchr(wire: &[u8], out: &mut Vec<u8>) -> bool {
    out.clear();
    let (mut longest, mut bare, mut nul, mut eight_bit) = (0, false, false, false);
    let mut rest = wire;
    let mut from = 0;
    while let Some(lf) = memchr::memchr(b'\n', &rest[from..]) {
        let line = &rest[from..from + lf + 1];
        if line == b".\r\n" {
            out.extend_from_slice(&rest[..from]);
            black_box((longest, bare, nul, eight_bit));
            return true;
        }
        bare |= memchr::memchr(b'\r', line) != Some(lf.wrapping_sub(1));
        nul |= memchr::memchr(0, line).is_some();
        eight_bit |= !line.is_ascii();
        longest = longest.max(lf);
        if line[0] == b'.' {
            out.extend_from_slice(&rest[..from]);
            rest = &rest[from + 1..];
            from = lf;
        } else {
            from += lf + 1;
        }
    }
    false
}

fn benches(criterion: &mut Criterion) {
    let body = body();
    let wire = wire(&body);
    let mut out = Vec::with_capacity(wire.len() + 16);

    let mut group = criterion.benchmark_group("decode 10 MB");
    group.throughput(Throughput::Bytes(wire.len() as u64)).sample_size(20);
    for kernel in Kernel::available() {
        assert!(
            decode(&wire, kernel, &mut out) && out == body,
            "{kernel:?} decodes right"
        );
        group.bench_function(format!("ironpost {kernel:?}"), |b| {
            b.iter(|| decode(black_box(&wire), kernel, &mut out))
        });
    }
    assert!(
        decode_memchr(&wire, &mut out) && out == body,
        "the version on memchr decodes right"
    );
    group.bench_function("on the memchr crate, same checks", |b| {
        b.iter(|| decode_memchr(black_box(&wire), &mut out))
    });
    assert!(
        decode_smtp_proto(&wire, &mut out) && out == body,
        "smtp-proto decodes right"
    );
    group.bench_function("smtp-proto DataReceiver, no checks", |b| {
        b.iter(|| decode_smtp_proto(black_box(&wire), &mut out))
    });
    group.bench_function("copy only", |b| {
        b.iter(|| {
            out.clear();
            black_box(&wire)
                .chunks(PIECE)
                .for_each(|piece| out.extend_from_slice(piece));
        });
    });
    group.finish();

    let mut group = criterion.benchmark_group("encode 10 MB");
    group.throughput(Throughput::Bytes(body.len() as u64)).sample_size(20);
    encode(&body, &mut out);
    assert!(out == wire, "the encoder writes what stuffing gives");
    group.bench_function("DataEncoder", |b| b.iter(|| encode(black_box(&body), &mut out)));
    group.bench_function("dot_stuff", |b| {
        b.iter(|| {
            out.clear();
            dot_stuff(black_box(&body)).append(&body, &mut out);
        });
    });
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
