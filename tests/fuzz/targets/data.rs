//! Transparency: a body ends at the first CRLF.CRLF and nowhere else, whatever the kernel and the cut; what an encoder
//! writes, a decoder reads back (SECURITY R1, R3, R8, R21, R22).
#![no_main]

use ironpost::data::{DataDecoder, DataEncoder, Facts, Newline, Plan, dot_stuff, dot_unstuff};
use ironpost::scan::Kernel;
use libfuzzer_sys::fuzz_target;

fn decode(pieces: &[&[u8]], newline: Newline, kernel: Kernel) -> (Vec<u8>, usize, bool, Facts) {
    let mut decoder = DataDecoder::with_kernel(newline, u64::MAX, kernel);
    let (mut plan, mut out, mut consumed) = (Plan::default(), Vec::new(), 0);
    for piece in pieces {
        consumed += decoder.feed(piece, &mut plan).consumed;
        plan.append(piece, &mut out);
    }
    (out, consumed, decoder.finished(), decoder.facts())
}

fuzz_target!(|input: (u16, &[u8])| {
    let (cut, data) = input;
    let (left, right) = data.split_at(usize::from(cut) % (data.len() + 1));
    let end = if data.starts_with(b".\r\n") {
        Some(3)
    } else {
        data.windows(5).position(|five| five == b"\r\n.\r\n").map(|at| at + 5)
    };
    for newline in [Newline::Reject, Newline::Normalise, Newline::Accept] {
        let whole = decode(&[data], newline, Kernel::best());
        assert_eq!(whole.2.then_some(whole.1), end, "the first true end and no other");
        for kernel in Kernel::available() {
            assert_eq!(whole, decode(&[left, right], newline, kernel), "{kernel:?}, cut in two");
        }
        assert_eq!(
            whole,
            decode(&data.chunks(1).collect::<Vec<_>>(), newline, Kernel::best()),
            "octet by octet"
        );
    }

    let (mut stuffed, mut plain) = (Vec::new(), Vec::new());
    dot_stuff(data).append(data, &mut stuffed);
    dot_unstuff(&stuffed).append(&stuffed, &mut plain);
    assert_eq!(plain, data, "unstuffing undoes stuffing");

    let mut encoder = DataEncoder::new(Newline::Normalise);
    let (mut plan, mut wire) = (Plan::default(), Vec::new());
    for piece in [left, right] {
        encoder.feed(piece, &mut plan).expect("normalising refuses nothing");
        plan.append(piece, &mut wire);
    }
    wire.extend_from_slice(encoder.finish().expect("normalising refuses nothing"));
    let (body, consumed, finished, facts) = decode(&[&wire], Newline::Reject, Kernel::best());
    assert!(finished && consumed == wire.len(), "one message leaves");
    assert!(!facts.bare_cr && !facts.bare_lf, "no bare CR or LF leaves");
    if !data.windows(3).any(|three| three == b"\r\n.") && !data.starts_with(b".") {
        // Without leading dots a normalising decoder gives the body that was meant, its last line ended.
        let end: &[u8] = match data.last() {
            None | Some(b'\n') => b"",
            Some(b'\r') => b"\n",
            Some(_) => b"\r\n",
        };
        let meant = [data, end, b".\r\n"].concat();
        let (expected, _, finished, _) = decode(&[&meant], Newline::Normalise, Kernel::best());
        assert!(!finished || body == expected, "the body arrives, normalised");
    }
});
