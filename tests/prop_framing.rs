//! Framing and canonical bodies against naive oracles: one octet after the other, written from the RFC, kept naive.

use ironpost::canonical::BodyCanonicaliser;
use ironpost::data::{DataDecoder, DataEncoder, Facts, Newline, Plan, dot_stuff, dot_unstuff};
use ironpost::fault::{Fault, FaultId};
use ironpost::scan::Kernel;
use proptest::prelude::*;

const NEWLINES: [Newline; 3] = [Newline::Reject, Newline::Normalise, Newline::Accept];

/// RFC 5321 §4.5.2 by the letter: find the end first, then take line after line.
fn naive_decode(wire: &[u8], newline: Newline) -> Option<(Vec<u8>, usize, Facts)> {
    let end = if wire.starts_with(b".\r\n") {
        0
    } else {
        2 + wire.windows(5).position(|five| five == b"\r\n.\r\n")?
    };
    let raw = &wire[..end];
    let mut plain = Vec::new();
    for (i, octet) in raw.iter().enumerate() {
        let first = i == 0 || raw[..i].ends_with(b"\r\n");
        if !(first && *octet == b'.') {
            plain.push(*octet);
        }
    }
    Some((normalised(&plain, newline), end + 3, naive_facts(&plain, newline)))
}

fn bare_cr(plain: &[u8], i: usize) -> bool {
    plain[i] == b'\r' && plain.get(i + 1) != Some(&b'\n')
}

fn bare_lf(plain: &[u8], i: usize) -> bool {
    plain[i] == b'\n' && (i == 0 || plain[i - 1] != b'\r')
}

fn normalised(plain: &[u8], newline: Newline) -> Vec<u8> {
    if newline != Newline::Normalise {
        return plain.to_vec();
    }
    let mut out = Vec::new();
    for i in 0..plain.len() {
        if bare_lf(plain, i) {
            out.push(b'\r');
        }
        out.push(plain[i]);
        if bare_cr(plain, i) {
            out.push(b'\n');
        }
    }
    out
}

fn naive_facts(plain: &[u8], newline: Newline) -> Facts {
    let content = normalised(plain, newline);
    let mut lines: Vec<Vec<u8>> = vec![Vec::new()];
    for octet in &content {
        let line = lines.last_mut().unwrap();
        line.push(*octet);
        if line.ends_with(b"\r\n") {
            line.truncate(line.len() - 2);
            lines.push(Vec::new());
        }
    }
    // The text after the last CRLF is not an empty line.
    let ended = &lines[..lines.len() - 1];
    let empty = ended.iter().position(Vec::is_empty);
    Facts {
        size: content.len() as u64,
        eight_bit: plain.iter().any(|octet| *octet > 127),
        nul: plain.contains(&0),
        bare_cr: (0..plain.len()).any(|i| bare_cr(plain, i)),
        bare_lf: (0..plain.len()).any(|i| bare_lf(plain, i)),
        longest_line: lines.iter().map(Vec::len).max().unwrap() as u64,
        header_size: empty.map(|n| ended[..n].iter().map(|line| line.len() as u64 + 2).sum()),
    }
}

fn decode(pieces: &[&[u8]], newline: Newline, limit: u64, kernel: Kernel) -> (Vec<u8>, usize, bool, Facts) {
    let mut decoder = DataDecoder::with_kernel(newline, limit, kernel);
    let (mut out, mut consumed, mut plan) = (Vec::new(), 0, Plan::default());
    for piece in pieces {
        let progress = decoder.feed(piece, &mut plan);
        plan.append(piece, &mut out);
        consumed += progress.consumed;
        if progress.finished {
            break;
        }
        assert_eq!(progress.consumed, piece.len());
    }
    (out, consumed, decoder.finished(), decoder.facts())
}

/// Pieces of `data` cut at `cuts` (taken modulo its length).
fn cut<'a>(data: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut % (data.len() + 1)).collect();
    at.sort_unstable();
    let mut from = 0;
    let mut pieces = Vec::new();
    for to in at.into_iter().chain([data.len()]) {
        pieces.push(&data[from..to]);
        from = to;
    }
    pieces
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(any::<usize>(), 0..6)
}

fn tokens() -> impl Strategy<Value = Vec<u8>> {
    let token = prop_oneof![
        4 => Just(b"\r\n".to_vec()),
        2 => Just(b"\r".to_vec()),
        2 => Just(b"\n".to_vec()),
        4 => Just(b".".to_vec()),
        1 => Just(b"\r\n.".to_vec()),
        1 => Just(vec![0]),
        1 => Just(vec![0xe9]),
        2 => Just(b" ".to_vec()),
        2 => Just(b"\t".to_vec()),
        1 => (0usize..130).prop_map(|n| vec![b' '; n]),
        3 => (0usize..130).prop_map(|n| vec![b'a'; n]),
        1 => Just(b"\r\n.\r\n".to_vec()),
    ];
    prop::collection::vec(token, 0..40).prop_map(|tokens| tokens.concat())
}

/// RFC 6376 §3.4.3 and §3.4.4 by the letter: line after line.
fn naive_canonical(body: &[u8], relaxed: bool) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = vec![Vec::new()];
    for octet in body {
        let line = lines.last_mut().unwrap();
        match octet {
            b' ' | b'\t' if relaxed && line.last() == Some(&b' ') => {}
            b'\t' if relaxed => line.push(b' '),
            octet => line.push(*octet),
        }
        if line.ends_with(b"\r\n") {
            line.truncate(line.len() - 2);
            lines.push(Vec::new());
        }
    }
    for line in &mut lines {
        if relaxed && line.last() == Some(&b' ') {
            line.pop();
        }
    }
    while lines.last().is_some_and(Vec::is_empty) {
        lines.pop();
    }
    if lines.is_empty() && !relaxed {
        lines.push(Vec::new());
    }
    lines
        .into_iter()
        .flat_map(|line| [line, b"\r\n".to_vec()].concat())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn r1_a_decoder_agrees_with_the_naive_oracle_however_the_input_is_cut(wire in tokens(), cuts in cuts()) {
        for newline in NEWLINES {
            let expected = naive_decode(&wire, newline);
            for kernel in Kernel::available() {
                let (body, consumed, finished, facts) = decode(&cut(&wire, &cuts), newline, u64::MAX, kernel);
                match &expected {
                    Some(expected) => {
                        prop_assert!(finished);
                        prop_assert_eq!((&body, consumed, facts), (&expected.0, expected.1, expected.2));
                    }
                    None => prop_assert!(!finished && consumed == wire.len()),
                }
            }
        }
    }

    #[test]
    fn one_octet_at_a_time_is_the_same(wire in tokens()) {
        for newline in NEWLINES {
            let octets: Vec<&[u8]> = wire.chunks(1).collect();
            let kernel = Kernel::best();
            prop_assert_eq!(decode(&octets, newline, u64::MAX, kernel), decode(&[&wire], newline, u64::MAX, kernel));
        }
    }

    #[test]
    fn the_content_limit_cuts_what_is_returned_and_nothing_else(wire in tokens(), limit in 0u64..200, cuts in cuts()) {
        for newline in NEWLINES {
            let whole = decode(&[&wire], newline, u64::MAX, Kernel::best());
            let limited = decode(&cut(&wire, &cuts), newline, limit, Kernel::best());
            prop_assert_eq!(&limited.0, &whole.0[..whole.0.len().min(limit as usize)]);
            prop_assert_eq!((limited.1, limited.2, limited.3), (whole.1, whole.2, whole.3));
        }
    }

    #[test]
    fn r3_what_an_encoder_writes_a_strict_decoder_reads_back(body in tokens(), cuts in cuts()) {
        for kernel in Kernel::available() {
            let mut encoder = DataEncoder::with_kernel(Newline::Normalise, kernel);
            let (mut wire, mut plan) = (Vec::new(), Plan::default());
            for piece in cut(&body, &cuts) {
                encoder.feed(piece, &mut plan).unwrap();
                plan.append(piece, &mut wire);
            }
            wire.extend_from_slice(encoder.finish().unwrap());
            let (read, consumed, _) = naive_decode(&wire, Newline::Reject).unwrap();
            let mut expected = normalised(&body, Newline::Normalise);
            if !expected.is_empty() && !expected.ends_with(b"\r\n") {
                expected.extend_from_slice(b"\r\n");
            }
            prop_assert_eq!(read, expected);
            prop_assert_eq!(consumed, wire.len());
            // A lax peer, which takes a CR or LF for a line end, sees one message too.
            let lax: Vec<u8> = wire.iter().copied().filter(|octet| *octet != b'\r').collect();
            let ends = lax.windows(3).filter(|three| three == b"\n.\n").count() + usize::from(lax.starts_with(b".\n"));
            prop_assert_eq!(ends, 1);
        }
    }

    #[test]
    fn r3_a_rejecting_encoder_names_the_first_wrong_octet(body in tokens(), cuts in cuts()) {
        let wrong = (0..body.len()).find_map(|i| match body[i] {
            b'\r' if bare_cr(&body, i) => Some(Fault { id: FaultId::BareCr, offset: i }),
            b'\n' if bare_lf(&body, i) => Some(Fault { id: FaultId::BareLf, offset: i }),
            _ => None,
        });
        let mut encoder = DataEncoder::new(Newline::Reject);
        let (mut wire, mut plan) = (Vec::new(), Plan::default());
        let mut fault = None;
        for piece in cut(&body, &cuts) {
            if let Err(found) = encoder.feed(piece, &mut plan) {
                fault = Some(found);
                break;
            }
            plan.append(piece, &mut wire);
        }
        match fault.map_or_else(|| encoder.finish(), Err) {
            Err(found) => prop_assert_eq!(Some(found), wrong),
            Ok(end) => {
                prop_assert_eq!(wrong, None);
                wire.extend_from_slice(end);
                prop_assert_eq!(naive_decode(&wire, Newline::Reject).unwrap().1, wire.len());
            }
        }
        // Whatever left before the fault has neither a bare CR nor a bare LF.
        prop_assert!((0..wire.len()).all(|i| !bare_cr(&wire, i) && !bare_lf(&wire, i)));
    }

    #[test]
    fn unstuffing_undoes_stuffing(body in tokens()) {
        let (mut stuffed, mut plain) = (Vec::new(), Vec::new());
        dot_stuff(&body).append(&body, &mut stuffed);
        dot_unstuff(&stuffed).append(&stuffed, &mut plain);
        prop_assert_eq!(&plain, &body);
        let dots = body.windows(3).filter(|three| three == b"\r\n.").count() + usize::from(body.starts_with(b"."));
        prop_assert_eq!(stuffed.len(), body.len() + dots);
    }

    #[test]
    fn a_canonicaliser_agrees_with_the_naive_oracle_however_the_body_is_cut(body in tokens(), cuts in cuts()) {
        for relaxed in [false, true] {
            let expected = naive_canonical(&body, relaxed);
            for kernel in Kernel::available() {
                for pieces in [cut(&body, &cuts), body.chunks(1).collect()] {
                    let mut canonicaliser = BodyCanonicaliser::with_kernel(relaxed, kernel);
                    let mut out = Vec::new();
                    for piece in pieces {
                        canonicaliser.feed(piece).append(&mut out);
                    }
                    canonicaliser.finish().append(&mut out);
                    prop_assert_eq!(&out, &expected, "{:?}, relaxed: {}", kernel, relaxed);
                }
            }
        }
    }
}
