//! Replies: no panic, bounded memory, the same whole, cut and octet by octet (SECURITY R18, R22).
#![no_main]

use ironpost::limits::Limits;
use ironpost::reply::{ReplyReader, parse_reply};
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits {
    reply_lines: 5,
    reply_octets: 200,
    ..Limits::DEFAULT
};

fn read(pieces: &[&[u8]]) -> (Vec<String>, usize) {
    let mut reader = ReplyReader::new(LIMITS);
    let mut events = Vec::new();
    for piece in pieces {
        reader.feed(piece, &mut |event| events.push(format!("{event:?}")));
        assert!(
            reader.buffered() <= LIMITS.reply_octets,
            "an unfinished reply is within its limit"
        );
    }
    (events, reader.buffered())
}

fuzz_target!(|input: (u16, &[u8])| {
    let (cut, data) = input;
    let (left, right) = data.split_at(usize::from(cut) % (data.len() + 1));
    let whole = read(&[data]);
    assert_eq!(whole, read(&[left, right]), "cut in two");
    assert_eq!(whole, read(&data.chunks(1).collect::<Vec<_>>()), "octet by octet");
    if let Ok(reply) = parse_reply(data) {
        assert!((200..600).contains(&reply.code) && !reply.lines.is_empty());
        assert!(
            reply
                .lines
                .iter()
                .all(|line| !line.iter().any(|octet| b"\r\n\0".contains(octet)))
        );
    }
});
