//! One pass over a block of octets that finds line endings, leading dots, and octets that are not allowed.
//!
//! Promises: sixty-four octets at a time are classified by a vector kernel into bit masks (CR, LF, dot, NUL, tab, space,
//! high bit), of which the compiler keeps those that a pass uses; everything else is portable arithmetic on those masks,
//! with a carry from block to block. The kernel is chosen once, at run time, by the features of the processor; all
//! kernels return the same masks, as a test with a naive oracle shows. Nothing allocates, nothing panics.
//!
//! Refuses: to interpret lines. That is for `data.rs`, `line.rs` and `framer.rs`.
//!
//! Standards: RFC 5321 §2.3.8 (only CRLF ends a line; a CR or LF without the other is bare), §4.5.2 (a dot that is
//! first on a line).
//!
//! `unsafe` lives in the kernels below and nowhere else in the crate outside `src/py/` (SECURITY R21).
#![allow(unsafe_code)]

use std::ops::ControlFlow;

/// Octets that one mask covers.
pub(crate) const BLOCK: usize = 64;

/// The masks of one block: bit i belongs to octet i.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Masks {
    pub(crate) cr: u64,
    pub(crate) lf: u64,
    pub(crate) dot: u64,
    pub(crate) nul: u64,
    pub(crate) tab: u64,
    pub(crate) space: u64,
    pub(crate) high: u64,
}

/// A kernel that this processor can run. Values are created only after a check of the processor (see `available`), so
/// the `unsafe` calls below are sound.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Kernel(Isa);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Isa {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Sse2,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kernel({:?})", self.0)
    }
}

impl Kernel {
    /// Every kernel that this processor can run, slowest first.
    #[must_use]
    pub fn available() -> Vec<Kernel> {
        let mut found = vec![Kernel(Isa::Portable)];
        #[cfg(target_arch = "x86_64")]
        {
            found.push(Kernel(Isa::Sse2)); // every x86_64 has it
            if x86::has_avx2() {
                found.push(Kernel(Isa::Avx2));
            }
            if x86::has_avx512() {
                found.push(Kernel(Isa::Avx512));
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            found.push(Kernel(Isa::Neon));
        }
        found
    }

    /// The fastest kernel that this processor can run.
    #[must_use]
    #[inline]
    pub fn best() -> Kernel {
        #[cfg(target_arch = "x86_64")]
        {
            if x86::has_avx512() {
                return Kernel(Isa::Avx512);
            }
            if x86::has_avx2() {
                return Kernel(Isa::Avx2);
            }
            Kernel(Isa::Sse2)
        }
        #[cfg(target_arch = "aarch64")]
        {
            if std::arch::is_aarch64_feature_detected!("neon") {
                return Kernel(Isa::Neon);
            }
            Kernel(Isa::Portable)
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        Kernel(Isa::Portable)
    }
}

/// Receives the masks of each block in turn. `base` is the offset of the block's first octet; `valid` has a bit
/// for each octet of the block (all, except in the last block). No mask has a bit outside `valid`.
pub(crate) trait Visitor {
    /// State that changes with every block. It is passed by value, so that it stays in registers during a pass.
    type State: Copy;
    fn state(&self) -> Self::State;
    fn set_state(&mut self, state: Self::State);
    fn block(&mut self, state: &mut Self::State, base: usize, valid: u64, masks: Masks) -> ControlFlow<()>;
}

/// Pass `data` to `visitor`, block by block, until the end or until it breaks.
#[inline]
pub(crate) fn visit<V: Visitor>(kernel: Kernel, data: &[u8], visitor: &mut V) {
    match kernel.0 {
        Isa::Portable => run::<Portable, V>(data, visitor),
        #[cfg(target_arch = "x86_64")]
        Isa::Sse2 => run::<x86::Sse2, V>(data, visitor),
        // SAFETY: a `Kernel` of this kind exists only where `has_avx2` said yes.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { x86::run_avx2(data, visitor) },
        // SAFETY: a `Kernel` of this kind exists only where `has_avx512` said yes.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { x86::run_avx512(data, visitor) },
        // SAFETY: a `Kernel` of this kind exists only where the processor has NEON.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => unsafe { arm::run_neon(data, visitor) },
    }
}

/// The classification of a block with one instruction set.
trait Classify {
    /// # Safety
    /// The processor must have the instruction set that the implementation names.
    unsafe fn masks(block: &[u8; BLOCK]) -> Masks;
}

/// The loop that every kernel shares; it is inlined into a function that has the instruction set switched on.
#[inline(always)]
fn run<C: Classify, V: Visitor>(data: &[u8], visitor: &mut V) {
    let mut state = visitor.state();
    let (blocks, rest) = data.as_chunks::<BLOCK>();
    let mut base = 0;
    for block in blocks {
        // SAFETY: `visit` calls this function, directly or through `run_*`, only with the instruction set at hand.
        let masks = unsafe { C::masks(block) };
        if visitor.block(&mut state, base, u64::MAX, masks).is_break() {
            return visitor.set_state(state);
        }
        base += BLOCK;
    }
    if !rest.is_empty() {
        let mut last = [b'x'; BLOCK]; // a letter sets no bit in any mask
        last[..rest.len()].copy_from_slice(rest);
        // SAFETY: as above.
        let masks = unsafe { C::masks(&last) };
        let _ = visitor.block(&mut state, base, (1 << rest.len()) - 1, masks);
    }
    visitor.set_state(state);
}

/// Eight octets at a time in a machine word: for processors that have no vector kernel, and as a cross-check.
struct Portable;

/// A bit for each octet of `word` that is zero, exact for every input.
#[inline(always)]
fn zero_octets(word: u64) -> u64 {
    const LOW7: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    high_bits(!(((word & LOW7) + LOW7) | word | LOW7))
}

/// The high bits of eight octets, gathered into the low eight bits.
#[inline(always)]
fn high_bits(word: u64) -> u64 {
    (((word >> 7) & 0x0101_0101_0101_0101).wrapping_mul(0x0102_0408_1020_4080)) >> 56
}

impl Classify for Portable {
    #[inline(always)]
    unsafe fn masks(block: &[u8; BLOCK]) -> Masks {
        const EACH: u64 = 0x0101_0101_0101_0101;
        let mut masks = Masks {
            cr: 0,
            lf: 0,
            dot: 0,
            nul: 0,
            tab: 0,
            space: 0,
            high: 0,
        };
        for (i, octets) in block.as_chunks::<8>().0.iter().enumerate() {
            let word = u64::from_le_bytes(*octets);
            let shift = 8 * i;
            masks.cr |= zero_octets(word ^ (EACH * b'\r' as u64)) << shift;
            masks.lf |= zero_octets(word ^ (EACH * b'\n' as u64)) << shift;
            masks.dot |= zero_octets(word ^ (EACH * b'.' as u64)) << shift;
            masks.nul |= zero_octets(word) << shift;
            masks.tab |= zero_octets(word ^ (EACH * b'\t' as u64)) << shift;
            masks.space |= zero_octets(word ^ (EACH * b' ' as u64)) << shift;
            masks.high |= high_bits(word) << shift;
        }
        masks
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{BLOCK, Classify, Masks, Visitor, run};
    use std::arch::x86_64::*;

    pub(super) struct Sse2;
    struct Avx2;
    struct Avx512;

    // The macro caches the processor's answer: a load and a test for each feature.

    #[inline]
    pub(super) fn has_avx2() -> bool {
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi1") && is_x86_feature_detected!("lzcnt")
    }

    #[inline]
    pub(super) fn has_avx512() -> bool {
        has_avx2() && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")
    }

    /// # Safety
    /// The processor must have what `has_avx2` asks for.
    #[target_feature(enable = "avx2,bmi1,lzcnt")]
    pub(super) unsafe fn run_avx2<V: Visitor>(data: &[u8], visitor: &mut V) {
        run::<Avx2, V>(data, visitor);
    }

    /// # Safety
    /// The processor must have what `has_avx512` asks for.
    #[target_feature(enable = "avx512f,avx512bw,bmi1,lzcnt")]
    pub(super) unsafe fn run_avx512<V: Visitor>(data: &[u8], visitor: &mut V) {
        run::<Avx512, V>(data, visitor);
    }

    impl Classify for Sse2 {
        #[inline(always)]
        unsafe fn masks(block: &[u8; BLOCK]) -> Masks {
            // SAFETY: every x86_64 has SSE2. The four loads are unaligned ones and read octets 0..64 of an array of 64.
            unsafe {
                let at = block.as_ptr().cast::<__m128i>();
                let v = [
                    _mm_loadu_si128(at),
                    _mm_loadu_si128(at.add(1)),
                    _mm_loadu_si128(at.add(2)),
                    _mm_loadu_si128(at.add(3)),
                ];
                macro_rules! gather {
                    ($part:expr) => {{
                        let part = $part;
                        (part(v[0]) as u32 as u64)
                            | (part(v[1]) as u32 as u64) << 16
                            | (part(v[2]) as u32 as u64) << 32
                            | (part(v[3]) as u32 as u64) << 48
                    }};
                }
                macro_rules! equal {
                    ($octet:expr) => {{
                        let wanted = _mm_set1_epi8($octet as i8);
                        gather!(|x| _mm_movemask_epi8(_mm_cmpeq_epi8(x, wanted)))
                    }};
                }
                Masks {
                    cr: equal!(b'\r'),
                    lf: equal!(b'\n'),
                    dot: equal!(b'.'),
                    nul: equal!(0),
                    tab: equal!(b'\t'),
                    space: equal!(b' '),
                    high: gather!(|x| _mm_movemask_epi8(x)),
                }
            }
        }
    }

    impl Classify for Avx2 {
        #[inline(always)]
        unsafe fn masks(block: &[u8; BLOCK]) -> Masks {
            // SAFETY: the caller guarantees AVX2. The two loads are unaligned ones and read octets 0..64 of an array
            // of 64.
            unsafe {
                let at = block.as_ptr().cast::<__m256i>();
                let (a, b) = (_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1)));
                macro_rules! join {
                    ($a:expr, $b:expr) => {
                        (_mm256_movemask_epi8($a) as u32 as u64) | (_mm256_movemask_epi8($b) as u32 as u64) << 32
                    };
                }
                macro_rules! equal {
                    ($octet:expr) => {{
                        let wanted = _mm256_set1_epi8($octet as i8);
                        join!(_mm256_cmpeq_epi8(a, wanted), _mm256_cmpeq_epi8(b, wanted))
                    }};
                }
                Masks {
                    cr: equal!(b'\r'),
                    lf: equal!(b'\n'),
                    dot: equal!(b'.'),
                    nul: equal!(0),
                    tab: equal!(b'\t'),
                    space: equal!(b' '),
                    high: join!(a, b),
                }
            }
        }
    }

    impl Classify for Avx512 {
        #[inline(always)]
        unsafe fn masks(block: &[u8; BLOCK]) -> Masks {
            // SAFETY: the caller guarantees AVX-512F and AVX-512BW. The load is an unaligned one and reads octets
            // 0..64 of an array of 64.
            unsafe {
                let v = _mm512_loadu_si512(block.as_ptr().cast());
                Masks {
                    cr: _mm512_cmpeq_epi8_mask(v, _mm512_set1_epi8(b'\r' as i8)),
                    lf: _mm512_cmpeq_epi8_mask(v, _mm512_set1_epi8(b'\n' as i8)),
                    dot: _mm512_cmpeq_epi8_mask(v, _mm512_set1_epi8(b'.' as i8)),
                    nul: _mm512_testn_epi8_mask(v, v),
                    tab: _mm512_cmpeq_epi8_mask(v, _mm512_set1_epi8(b'\t' as i8)),
                    space: _mm512_cmpeq_epi8_mask(v, _mm512_set1_epi8(b' ' as i8)),
                    high: _mm512_movepi8_mask(v),
                }
            }
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use super::{BLOCK, Classify, Masks, Visitor, run};
    use std::arch::aarch64::*;

    struct Neon;

    /// # Safety
    /// The processor must have NEON.
    #[target_feature(enable = "neon")]
    pub(super) unsafe fn run_neon<V: Visitor>(data: &[u8], visitor: &mut V) {
        run::<Neon, V>(data, visitor);
    }

    const WEIGHTS: [u8; 16] = [1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128];

    impl Classify for Neon {
        #[inline(always)]
        unsafe fn masks(block: &[u8; BLOCK]) -> Masks {
            // SAFETY: the caller guarantees NEON. The loads read octets 0..64 of an array of 64, and 16 of WEIGHTS.
            unsafe {
                let at = block.as_ptr();
                let v = [
                    vld1q_u8(at),
                    vld1q_u8(at.add(16)),
                    vld1q_u8(at.add(32)),
                    vld1q_u8(at.add(48)),
                ];
                let weights = vld1q_u8(WEIGHTS.as_ptr());
                macro_rules! gather {
                    ($part:expr) => {{
                        let part = $part;
                        let low = vpaddq_u8(vandq_u8(part(v[0]), weights), vandq_u8(part(v[1]), weights));
                        let high = vpaddq_u8(vandq_u8(part(v[2]), weights), vandq_u8(part(v[3]), weights));
                        let sums = vpaddq_u8(low, high);
                        vgetq_lane_u64::<0>(vreinterpretq_u64_u8(vpaddq_u8(sums, sums)))
                    }};
                }
                Masks {
                    cr: gather!(|x| vceqq_u8(x, vdupq_n_u8(b'\r'))),
                    lf: gather!(|x| vceqq_u8(x, vdupq_n_u8(b'\n'))),
                    dot: gather!(|x| vceqq_u8(x, vdupq_n_u8(b'.'))),
                    nul: gather!(|x| vceqzq_u8(x)),
                    tab: gather!(|x| vceqq_u8(x, vdupq_n_u8(b'\t'))),
                    space: gather!(|x| vceqq_u8(x, vdupq_n_u8(b' '))),
                    high: gather!(|x| vcgeq_u8(x, vdupq_n_u8(0x80))),
                }
            }
        }
    }
}

/// The lines of one block. Whether a CR is bare is known at the octet after it, so `bare_cr` has its bit there: bit i
/// means that octet i - 1 was a bare CR.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) crlf: u64,
    pub(crate) bare_cr: u64,
    pub(crate) bare_lf: u64,
}

/// The state carried from one block to the next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Carry {
    /// 1 if the last octet was a CR.
    pub(crate) cr: u64,
    /// 1 if the next octet starts a line.
    pub(crate) start: u64,
}

impl Carry {
    /// Find the line endings of the next block; update `self.cr`.
    #[inline(always)]
    pub(crate) fn ends(&mut self, masks: &Masks, valid: u64) -> Ends {
        let after_cr = ((masks.cr << 1) | self.cr) & valid;
        let crlf = masks.lf & after_cr;
        // The last valid octet sits in the highest bit of `valid`.
        self.cr = u64::from(masks.cr & !(valid >> 1) != 0);
        Ends {
            crlf,
            bare_cr: after_cr & !masks.lf,
            bare_lf: masks.lf & !after_cr,
        }
    }

    /// Find the octets that start a line, given the line endings in `ends`; update `self.start`.
    #[inline(always)]
    pub(crate) fn starts(&mut self, ends: u64, valid: u64) -> u64 {
        let starts = ((ends << 1) | self.start) & valid;
        self.start = u64::from(ends & !(valid >> 1) != 0);
        starts
    }
}

/// Offset of the first CR, LF or NUL, or `data.len()`. For command lines, which are short: no dispatch.
#[must_use]
#[inline]
pub(crate) fn find_line_octet(data: &[u8]) -> usize {
    let mut at = 0;
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::*;
        for block in data.as_chunks::<16>().0 {
            // SAFETY: every x86_64 has SSE2; the unaligned load reads the 16 octets of an array of 16.
            let found = unsafe {
                let v = _mm_loadu_si128(block.as_ptr().cast());
                let lines = _mm_or_si128(
                    _mm_cmpeq_epi8(v, _mm_set1_epi8(b'\r' as i8)),
                    _mm_cmpeq_epi8(v, _mm_set1_epi8(b'\n' as i8)),
                );
                _mm_movemask_epi8(_mm_or_si128(lines, _mm_cmpeq_epi8(v, _mm_setzero_si128())))
            };
            if found != 0 {
                return at + found.trailing_zeros() as usize;
            }
            at += 16;
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    for block in data.as_chunks::<8>().0 {
        const EACH: u64 = 0x0101_0101_0101_0101;
        let word = u64::from_le_bytes(*block);
        let found =
            zero_octets(word ^ (EACH * b'\r' as u64)) | zero_octets(word ^ (EACH * b'\n' as u64)) | zero_octets(word);
        if found != 0 {
            return at + found.trailing_zeros() as usize;
        }
        at += 8;
    }
    let rest = &data[at..];
    at + rest
        .iter()
        .position(|octet| matches!(octet, b'\r' | b'\n' | 0))
        .unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The oracle: one octet at a time. Keep it naive.
    fn naive(block: &[u8; BLOCK]) -> Masks {
        let mut masks = Masks {
            cr: 0,
            lf: 0,
            dot: 0,
            nul: 0,
            tab: 0,
            space: 0,
            high: 0,
        };
        for (i, octet) in block.iter().enumerate() {
            let bit = 1u64 << i;
            match octet {
                b'\r' => masks.cr |= bit,
                b'\n' => masks.lf |= bit,
                b'.' => masks.dot |= bit,
                0 => masks.nul |= bit,
                b'\t' => masks.tab |= bit,
                b' ' => masks.space |= bit,
                128..=255 => masks.high |= bit,
                _ => {}
            }
        }
        masks
    }

    #[derive(Default)]
    struct Collected(Vec<(usize, u64, Masks)>);

    impl Visitor for Collected {
        type State = ();
        fn state(&self) {}
        fn set_state(&mut self, (): ()) {}
        fn block(&mut self, (): &mut (), base: usize, valid: u64, masks: Masks) -> ControlFlow<()> {
            self.0.push((base, valid, masks));
            ControlFlow::Continue(())
        }
    }

    fn octets() -> impl Strategy<Value = u8> {
        prop_oneof![4 => prop::sample::select(&b"\r\n.\0\t \x80\xff\x01\x08\x0c\x0e\x1f!\x7f-/"[..]), 1 => any::<u8>()]
    }

    proptest! {
        #[test]
        fn every_kernel_agrees_with_the_naive_oracle(data in prop::collection::vec(octets(), 0..300)) {
            for kernel in Kernel::available() {
                let mut seen = Collected::default();
            visit(kernel, &data, &mut seen);
                prop_assert_eq!(seen.0.len(), data.len().div_ceil(BLOCK));
                for (n, (base, valid, masks)) in seen.0.into_iter().enumerate() {
                    let part = &data[BLOCK * n..data.len().min(BLOCK * (n + 1))];
                    let mut block = [b'x'; BLOCK];
                    block[..part.len()].copy_from_slice(part);
                    prop_assert_eq!(base, BLOCK * n);
                    prop_assert_eq!(valid.count_ones() as usize, part.len());
                    prop_assert_eq!(masks, naive(&block), "{:?}", kernel);
                }
            }
        }

        #[test]
        fn line_ends_and_starts_agree_with_the_naive_oracle(data in prop::collection::vec(octets(), 1..200)) {
            let mut seen = Collected::default();
            visit(Kernel::best(), &data, &mut seen);
            let mut carry = Carry { cr: 0, start: 1 };
            for (base, valid, masks) in seen.0 {
                let ends = carry.ends(&masks, valid);
                let starts = carry.starts(ends.crlf, valid);
                for i in 0..valid.count_ones() as usize {
                    let at = base + i;
                    let cr_before = at > 0 && data[at - 1] == b'\r';
                    let has = |mask: u64| mask >> i & 1 == 1;
                    prop_assert_eq!(has(ends.crlf), cr_before && data[at] == b'\n');
                    prop_assert_eq!(has(ends.bare_lf), !cr_before && data[at] == b'\n');
                    prop_assert_eq!(has(ends.bare_cr), cr_before && data[at] != b'\n');
                    prop_assert_eq!(has(starts), at == 0 || data[..at].ends_with(b"\r\n"));
                }
            }
        }

        #[test]
        fn the_first_octet_that_ends_a_line_run_is_found(data in prop::collection::vec(octets(), 0..100)) {
            let naive = data.iter().position(|o| [b'\r', b'\n', 0].contains(o)).unwrap_or(data.len());
            prop_assert_eq!(find_line_octet(&data), naive);
        }
    }
}
