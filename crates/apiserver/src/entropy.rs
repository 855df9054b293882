//! The only source of chance: UIDs, generated names, and jitter.

/// Upstream's alphabet: no vowels and no characters that look alike.
///
/// Source: upstream `apimachinery/pkg/util/rand/rand.go`.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
/// Characters added to `generateName`.
const SUFFIX_LEN: usize = 5;
/// Longest prefix that is kept: names end at 63.
const PREFIX_MAX: usize = 58;

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the kernel's random source does not fail once it is seeded, and it is before user space starts");
    bytes
}

/// Where to begin among several that are as good.
pub(crate) fn index() -> usize {
    usize::from_le_bytes(random())
}

/// A random UUID, version 4. Source: RFC 9562, section 5.4.
pub(crate) fn uid() -> String {
    let mut bytes = random::<16>();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = |range: std::ops::Range<usize>| bytes[range].iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("{}-{}-{}-{}-{}", hex(0..4), hex(4..6), hex(6..8), hex(8..10), hex(10..16))
}

/// A name that begins with `prefix`.
///
/// Source: upstream `apiserver/pkg/storage/names/generate.go`.
pub(crate) fn name(prefix: &str) -> String {
    let mut end = prefix.len().min(PREFIX_MAX);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = prefix[..end].to_owned();
    // 16 bits modulo 27: the bias is below one in two thousand.
    let bytes = random::<{ SUFFIX_LEN * 2 }>();
    name.extend(
        bytes
            .chunks_exact(2)
            .map(|pair| char::from(ALPHABET[usize::from(u16::from_le_bytes([pair[0], pair[1]])) % ALPHABET.len()])),
    );
    name
}

/// A number in `0..1`.
pub(crate) fn fraction() -> f64 {
    f64::from(u32::from_le_bytes(random())) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_are_version_4_and_differ() {
        let (one, other) = (uid(), uid());
        assert_ne!(one, other);
        assert_eq!((one.len(), &one[14..15]), (36, "4"));
        assert!("89ab".contains(&one[19..20]), "{one}");
    }

    #[test]
    fn names_keep_their_prefix_and_fit() {
        let generated = name("web-");
        assert!(generated.starts_with("web-") && generated.len() == 9);
        assert!(generated.bytes().skip(4).all(|byte| ALPHABET.contains(&byte)), "{generated}");
        assert_eq!(name(&"a".repeat(100)).len(), 63);
        assert!((0.0..1.0).contains(&fraction()));
    }
}
