//! One command line or mailbox: no panic, faults inside the line, what is accepted can be written and read again
//! (SECURITY R17, R22).
#![no_main]

use ironpost::address::{Addresses, format_mailbox, parse_mailbox};
use ironpost::command::parse_command;
use ironpost::xtext::{utf8_addr_xtext_decode, xtext_decode, xtext_encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (bool, &[u8])| {
    let (lenient, data) = input;
    let addresses = if lenient { Addresses::Lenient } else { Addresses::Strict };
    let command = parse_command(data, addresses);
    assert!(command.argument.len() <= data.len());
    match command.fault {
        Some(fault) => {
            assert!(
                fault.offset <= data.len(),
                "a fault lies inside the line, or at its end"
            );
            let parsed = command.path.is_some() || command.chunk.is_some() || command.domain.is_some();
            assert!(!parsed);
        }
        None => {
            if let Some(path) = &command.path {
                let text = [&path.local_part[..], path.domain].concat();
                assert!(!text.contains(['\r', '\n', '\0']), "no path holds CR, LF or NUL");
            }
        }
    }
    if let Ok(mailbox) = parse_mailbox(data, addresses) {
        let written = format_mailbox(&mailbox, addresses).expect("what was read can be written");
        let again = parse_mailbox(written.as_bytes(), addresses).expect("what was written can be read");
        assert_eq!((again.local_part, again.domain), (mailbox.local_part, mailbox.domain));
    }
    let decoded = xtext_decode(&xtext_encode(data).into_owned().into_bytes())
        .expect("xtext reads what it writes")
        .into_owned();
    assert_eq!(decoded, data);
    let _ = xtext_decode(data);
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = utf8_addr_xtext_decode(text);
    }
});
