//! What is no UTF-8, told by the head of a file.
//!
//! Names an encoding only where its marks are plain; never converts, never guesses from a few bytes.

/// Fewer invalid places than this are broken records, not another encoding.
const INVALID_MIN: usize = 4;
/// One of so many pairs of Japanese text is kana or the full stop, in any text that is one.
const KANA_SHARE_INV: usize = 5;

/// Length of the byte-order mark to skip.
///
/// # Errors
/// Names the encoding that the head is in, where that is not UTF-8.
pub(super) fn check(head: &[u8]) -> Result<usize, String> {
    if head.starts_with(b"\xef\xbb\xbf") {
        return Ok(3);
    }
    foreign(head).map_or(Ok(0), |(name, iconv)| {
        Err(format!("found {name}, expected UTF-8; convert it with: iconv -f {iconv} -t UTF-8"))
    })
}

fn foreign(head: &[u8]) -> Option<(&'static str, &'static str)> {
    let marks: [(&[u8], _); 4] = [
        (b"\xff\xfe\0\0", ("UTF-32 (little-endian)", "UTF-32")),
        (b"\0\0\xfe\xff", ("UTF-32 (big-endian)", "UTF-32")),
        (b"\xff\xfe", ("UTF-16 (little-endian)", "UTF-16")),
        (b"\xfe\xff", ("UTF-16 (big-endian)", "UTF-16")),
    ];
    if let Some((_, name)) = marks.into_iter().find(|(mark, _)| head.starts_with(mark)) {
        return Some(name);
    }
    if head.is_ascii() && [b"\x1b$B", b"\x1b(B"].iter().all(|shift| head.windows(3).any(|bytes| bytes == *shift)) {
        return Some(("ISO-2022-JP", "ISO-2022-JP"));
    }
    // Every second byte of Latin text in UTF-16 is zero.
    let zeros = |odd: usize| head.iter().skip(odd).step_by(2).filter(|byte| **byte == 0).count();
    if head.len() >= 8 {
        for (odd, name) in [(1, ("UTF-16 (little-endian)", "UTF-16LE")), (0, ("UTF-16 (big-endian)", "UTF-16BE"))] {
            if zeros(odd) * 4 > head.len() && zeros(1 - odd) * 16 < head.len() {
                return Some(name);
            }
        }
    }
    let (mut valid, mut invalid) = (0, 0);
    for chunk in head.utf8_chunks() {
        valid += chunk.valid().chars().filter(|c| !c.is_ascii()).count();
        invalid += usize::from(!chunk.invalid().is_empty());
    }
    if invalid < INVALID_MIN || invalid <= valid {
        return None;
    }
    let shift_jis = kana_and_pairs(
        head,
        |lead, trail| matches!(lead, 0x81..=0x9f | 0xe0..=0xfc) && matches!(trail, 0x40..=0x7e | 0x80..=0xfc),
        |lead, trail| matches!((lead, trail), (0x82, 0x9f..=0xf1) | (0x83, 0x40..=0x96) | (0x81, 0x41 | 0x42)),
    );
    let euc_jp = kana_and_pairs(
        head,
        |lead, trail| lead >= 0xa1 && trail >= 0xa1,
        |lead, trail| matches!((lead, trail), (0xa4 | 0xa5, 0xa1..=0xf6) | (0xa1, 0xa2 | 0xa3)),
    );
    let (found, (kana, pairs)) =
        if shift_jis.0 >= euc_jp.0 { (("Shift-JIS", "CP932"), shift_jis) } else { (("EUC-JP", "EUC-JP"), euc_jp) };
    (kana > 0 && kana * KANA_SHARE_INV >= pairs).then_some(found)
}

/// Pairs of bytes that are kana or a full stop, and all pairs, read from the left.
fn kana_and_pairs(head: &[u8], pair: impl Fn(u8, u8) -> bool, kana: impl Fn(u8, u8) -> bool) -> (usize, usize) {
    let (mut found, mut pairs, mut at) = (0, 0, 0);
    while let [lead, trail, ..] = head[at..] {
        let is_pair = pair(lead, trail);
        pairs += usize::from(is_pair);
        found += usize::from(is_pair && kana(lead, trail));
        at += if is_pair { 2 } else { 1 };
    }
    (found, pairs)
}
