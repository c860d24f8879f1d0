//! Header sections: no panic, fields follow one another without a gap, limits hold (SECURITY R8, R22).
#![no_main]

use ironpost::header::{scan_header, unfold};
use ironpost::limits::Limits;
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits {
    header_octets: 300,
    header_fields: 7,
    ..Limits::DEFAULT
};

fuzz_target!(|data: &[u8]| {
    let section = scan_header(data, &LIMITS);
    let mut at = 0;
    for field in &section.fields {
        assert!(field.start == at && field.start < field.value && field.value <= field.end && field.end <= data.len());
        assert!(unfold(&data[field.value..field.end]).len() <= field.end - field.value);
        at = field.end;
    }
    assert!(section.fields.len() <= LIMITS.header_fields && section.end <= data.len());
    assert!(section.end <= LIMITS.header_octets && section.received <= section.fields.len());
});
