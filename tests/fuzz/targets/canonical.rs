//! Canonical forms: no cut changes the body's, which is its own canonical form, and only white space and line ends are
//! lost (SECURITY R22).
#![no_main]

use ironpost::canonical::{BodyCanonicaliser, canonical_field};
use ironpost::scan::Kernel;
use libfuzzer_sys::fuzz_target;

fn canonical(pieces: &[&[u8]], relaxed: bool, kernel: Kernel) -> Vec<u8> {
    let mut canonicaliser = BodyCanonicaliser::with_kernel(relaxed, kernel);
    let mut out = Vec::new();
    for piece in pieces {
        canonicaliser.feed(piece).append(&mut out);
    }
    canonicaliser.finish().append(&mut out);
    out
}

fn solid(octets: &[u8]) -> Vec<u8> {
    octets
        .iter()
        .copied()
        .filter(|octet| !b" \t\r\n".contains(octet))
        .collect()
}

fuzz_target!(|input: (u16, &[u8])| {
    let (cut, data) = input;
    let (left, right) = data.split_at(usize::from(cut) % (data.len() + 1));
    for relaxed in [false, true] {
        let whole = canonical(&[data], relaxed, Kernel::best());
        for kernel in Kernel::available() {
            assert_eq!(
                whole,
                canonical(&[left, right], relaxed, kernel),
                "{kernel:?}, cut in two"
            );
        }
        assert_eq!(whole, canonical(&[&whole], relaxed, Kernel::best()), "twice");
        assert_eq!(solid(&whole), solid(data), "all text is signed");
        if let Ok(field) = canonical_field(data, relaxed) {
            assert_eq!(
                solid(&field).to_ascii_lowercase(),
                solid(data).to_ascii_lowercase(),
                "all text is signed"
            );
        }
    }
});
