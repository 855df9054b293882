//! SPDY header blocks: name and value pairs in one zlib stream per direction,
//! primed with a dictionary.
//!
//! Source: draft-mbelshe-httpbis-spdy-00, section 2.6.10.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

/// Most that a block may hold once it is inflated.
const BLOCK_BYTES_MAX: usize = 64 << 10;
/// Most pairs in a block.
const PAIRS_MAX: u32 = 256;
/// Inflated or deflated in one go.
const STEP_BYTES: usize = 4 << 10;

/// The dictionary's words, each preceded by its length.
const WORDS: &str = "options|head|post|put|delete|trace|accept|accept-charset|accept-encoding|accept-language|\
    accept-ranges|age|allow|authorization|cache-control|connection|content-base|content-encoding|content-language|\
    content-length|content-location|content-md5|content-range|content-type|date|etag|expect|expires|from|host|if-match|\
    if-modified-since|if-none-match|if-range|if-unmodified-since|last-modified|location|max-forwards|pragma|\
    proxy-authenticate|proxy-authorization|range|referer|retry-after|server|te|trailer|transfer-encoding|upgrade|\
    user-agent|vary|via|warning|www-authenticate|method|get|status|200 OK|version|HTTP/1.1|url|public|set-cookie|\
    keep-alive|origin";
/// What follows them.
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
    203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized\
    403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable\
    Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
    chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,\
    publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

/// Made when a connection begins; it is not kept, as few connections do.
fn dictionary() -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in WORDS.split('|') {
        bytes.extend_from_slice(&u32::try_from(word.len()).unwrap_or_default().to_be_bytes());
        bytes.extend_from_slice(word.as_bytes());
    }
    bytes.extend_from_slice(TAIL.as_bytes());
    bytes
}

/// A header block that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Not the zlib stream it should be.
    #[error("it is not compressed as it should be")]
    Zlib,
    /// More than a block may hold.
    #[error("it holds more than {BLOCK_BYTES_MAX} bytes or {PAIRS_MAX} headers")]
    TooLong,
    /// Lengths that lead beyond its end, or text that is not UTF-8.
    #[error("its names and values are malformed")]
    Malformed,
}

/// Names, in lower case, and values, in the order they were sent. Several
/// values of one name are pairs of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// The first value of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn parse(mut block: &[u8]) -> Result<Self, HeaderError> {
        let mut headers = Self::default();
        let count = number(&mut block)?;
        if count > PAIRS_MAX {
            return Err(HeaderError::TooLong);
        }
        for _ in 0..count {
            let name = text(&mut block)?.to_ascii_lowercase();
            let values = text(&mut block)?;
            headers.0.extend(values.split('\0').map(|value| (name.clone(), value.to_owned())));
        }
        Ok(headers)
    }

    fn write(&self, out: &mut Vec<u8>) {
        let length = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes();
        out.extend_from_slice(&length(self.0.len()));
        for (name, value) in &self.0 {
            for text in [name, value] {
                out.extend_from_slice(&length(text.len()));
                out.extend_from_slice(text.as_bytes());
            }
        }
    }
}

fn number(block: &mut &[u8]) -> Result<u32, HeaderError> {
    let (bytes, rest) = block.split_first_chunk::<4>().ok_or(HeaderError::Malformed)?;
    *block = rest;
    Ok(u32::from_be_bytes(*bytes))
}

fn text(block: &mut &[u8]) -> Result<String, HeaderError> {
    let length = number(block)? as usize;
    let (bytes, rest) = block.split_at_checked(length).ok_or(HeaderError::Malformed)?;
    *block = rest;
    String::from_utf8(bytes.to_vec()).map_err(|_| HeaderError::Malformed)
}

/// Reads the header blocks of one direction.
#[derive(Debug)]
pub(super) struct Inflater(Decompress);

impl Default for Inflater {
    fn default() -> Self {
        Self(Decompress::new(true))
    }
}

impl Inflater {
    pub(super) fn headers(&mut self, mut compressed: &[u8]) -> Result<Headers, HeaderError> {
        let mut block = Vec::new();
        let mut step = vec![0; STEP_BYTES];
        loop {
            let (read, written) = (self.0.total_in(), self.0.total_out());
            let result = self.0.decompress(compressed, &mut step, FlushDecompress::Sync);
            let used = usize::try_from(self.0.total_in() - read).map_err(|_| HeaderError::Zlib)?;
            let made = usize::try_from(self.0.total_out() - written).map_err(|_| HeaderError::Zlib)?;
            compressed = compressed.get(used..).ok_or(HeaderError::Zlib)?;
            if block.len() + made > BLOCK_BYTES_MAX {
                return Err(HeaderError::TooLong);
            }
            block.extend_from_slice(&step[..made]);
            match result {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&dictionary()).map_err(|_| HeaderError::Zlib)?;
                }
                Err(_) => return Err(HeaderError::Zlib),
                // Less than there was room for: that is all.
                Ok(_) if compressed.is_empty() && made < STEP_BYTES => break,
                Ok(_) if used == 0 && made == 0 => return Err(HeaderError::Zlib),
                Ok(_) => {}
            }
        }
        Headers::parse(&block)
    }
}

/// Writes the header blocks of one direction.
#[derive(Debug, Default)]
pub(super) struct Deflater(Option<Compress>);

impl Deflater {
    pub(super) fn block(&mut self, headers: &Headers) -> Vec<u8> {
        let zlib = self.0.get_or_insert_with(|| {
            let mut zlib = Compress::new(Compression::fast(), true);
            // Fails only in the middle of a stream.
            let _ = zlib.set_dictionary(&dictionary());
            zlib
        });
        let mut plain = Vec::new();
        headers.write(&mut plain);
        let (mut left, mut block, mut step) = (plain.as_slice(), Vec::new(), vec![0; STEP_BYTES]);
        loop {
            let (read, written) = (zlib.total_in(), zlib.total_out());
            // The only error is a stream state we do not bring about.
            let result = zlib.compress(left, &mut step, FlushCompress::Sync);
            let used = usize::try_from(zlib.total_in() - read).unwrap_or(left.len());
            let made = usize::try_from(zlib.total_out() - written).unwrap_or_default();
            left = left.get(used..).unwrap_or_default();
            block.extend_from_slice(&step[..made]);
            if result.is_err() || (left.is_empty() && made < STEP_BYTES) {
                return block;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_published_one() {
        let dictionary = dictionary();
        assert_eq!(dictionary.len(), 1423);
        let (mut a, mut b) = (1u32, 0u32); // Adler-32
        for byte in &dictionary {
            a = (a + u32::from(*byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!((b << 16) | a, 0xe3c6_a7c2);
    }

    #[test]
    fn blocks_of_one_direction_follow_each_other() {
        let (mut deflater, mut inflater) = (Deflater::default(), Inflater::default());
        for n in 0..50 {
            let headers = Headers(vec![("streamtype".into(), "data".into()), ("port".into(), n.to_string())]);
            assert_eq!(inflater.headers(&deflater.block(&headers)).unwrap(), headers);
        }
        assert_eq!(inflater.headers(&deflater.block(&Headers::default())).unwrap(), Headers::default());
    }

    #[test]
    fn a_block_that_blows_up_is_refused() {
        let bomb = Headers(vec![("x".into(), "a".repeat(1 << 20))]);
        let block = Deflater::default().block(&bomb);
        assert!(block.len() < 16 << 10, "{}", block.len());
        assert_eq!(Inflater::default().headers(&block).unwrap_err(), HeaderError::TooLong);
        assert_eq!(Inflater::default().headers(b"not zlib").unwrap_err(), HeaderError::Zlib);
    }
}
