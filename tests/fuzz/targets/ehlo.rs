//! EHLO replies: no panic, keywords are upper case and words (SECURITY R22).
#![no_main]

use ironpost::ehlo::parse_ehlo;
use ironpost::reply::parse_reply;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|lines: Vec<&[u8]>| {
    let mut octets = Vec::new();
    for (n, line) in lines.iter().enumerate() {
        octets.extend_from_slice(if n + 1 == lines.len() { b"250 " } else { b"250-" });
        octets.extend_from_slice(line);
        octets.extend_from_slice(b"\r\n");
    }
    if let Ok(reply) = parse_reply(&octets) {
        let ehlo = parse_ehlo(&reply).expect("250 is not a refusal");
        for (keyword, _) in &ehlo.extensions {
            assert!(!keyword.is_empty() && !keyword.contains(|c: char| c.is_ascii_lowercase() || c == ' '));
        }
    }
});
