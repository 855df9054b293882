//! Resource quantities: exact decimal amounts with a unit suffix.
//!
//! A [`Quantity`] is a whole number of nano units, so nothing in the range of
//! the API is rounded. Beyond about 1.7e29 units it saturates.
//!
//! Source: API reference, "Quantity"; upstream
//! `apimachinery/pkg/api/resource/quantity.go`.

use std::cmp::Ordering;
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};
use std::str::FromStr;

use crate::typed::WireQuantity;

/// An amount of a resource.
///
/// Equality and order look at the amount alone: `0.5` equals `500m`. Displays
/// in upstream's canonical form: no fraction, the largest suffix that keeps
/// the amount exact, in the family the amount was written in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// The family of suffixes a quantity is written with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `n u m k M G T P E`.
    #[default]
    DecimalSi,
    /// `Ki Mi Gi Ti Pi Ei`.
    BinarySi,
    /// `e3`, `E6`, ...
    DecimalExponent,
}

/// A text that is not a quantity; the words are upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// The text as a whole.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Syntax,
    /// No such suffix.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

const NANO: i128 = 1_000_000_000;
/// Upstream caps binary quantities at the largest 64-bit integer.
const BINARY_MAX_NANOS: i128 = i64::MAX as i128 * NANO;
/// Fractional digits that can matter: 60 doublings leave 10 digits at the least.
const FRACTION_DIGITS: usize = 80;

const DECIMAL: [(&str, i64); 10] = [
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];
const BINARY: [(&str, u32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self {
        nanos: 0,
        format: Format::DecimalSi,
    };

    /// Thousandths, as CPU is counted.
    #[must_use]
    pub const fn from_milli(milli: i64) -> Self {
        Self {
            nanos: milli as i128 * 1_000_000,
            format: Format::DecimalSi,
        }
    }

    /// Whole units, such as pods.
    #[must_use]
    pub const fn from_units(units: i64) -> Self {
        Self {
            nanos: units as i128 * NANO,
            format: Format::DecimalSi,
        }
    }

    /// Whole units, written with binary suffixes.
    #[must_use]
    pub const fn from_bytes(bytes: i64) -> Self {
        Self {
            nanos: bytes as i128 * NANO,
            format: Format::BinarySi,
        }
    }

    /// Thousandths, rounded away from zero; saturates.
    #[must_use]
    pub fn milli(self) -> i64 {
        self.scaled(1_000_000)
    }

    /// Whole units, rounded away from zero; saturates.
    #[must_use]
    pub fn bytes(self) -> i64 {
        self.scaled(NANO)
    }

    /// Whole units, rounded away from zero; saturates.
    #[must_use]
    pub fn units(self) -> i64 {
        self.scaled(NANO)
    }

    fn scaled(self, unit: i128) -> i64 {
        let up = i128::from(self.nanos % unit != 0) * self.nanos.signum();
        let rounded = self.nanos / unit + up;
        i64::try_from(rounded).unwrap_or(if rounded < 0 { i64::MIN } else { i64::MAX })
    }

    /// Whether it is nothing.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Whether it is less than nothing.
    #[must_use]
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// The family of suffixes it displays with.
    #[must_use]
    pub fn format(self) -> Format {
        self.format
    }

    /// Rounded up to whole thousandths, as the API server stores resources.
    #[must_use]
    pub fn round_up_to_milli(self) -> Self {
        let unit = 1_000_000;
        let up = i128::from(self.nanos % unit != 0) * self.nanos.signum();
        Self {
            nanos: (self.nanos / unit + up).saturating_mul(unit),
            ..self
        }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl std::hash::Hash for Quantity {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.nanos.hash(state);
    }
}

impl Add for Quantity {
    type Output = Self;
    /// Saturates. Displays as the left operand, or as the right if the left is zero.
    fn add(self, rhs: Self) -> Self {
        let format = if self.is_zero() { rhs.format } else { self.format };
        Self {
            nanos: self.nanos.saturating_add(rhs.nanos),
            format,
        }
    }
}

impl Sub for Quantity {
    type Output = Self;
    fn sub(self, rhs: Self) -> Self {
        self + -rhs
    }
}

impl Neg for Quantity {
    type Output = Self;
    fn neg(self) -> Self {
        Self {
            nanos: self.nanos.saturating_neg(),
            ..self
        }
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, rhs: Self) {
        *self = *self + rhs;
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, rhs: Self) {
        *self = *self - rhs;
    }
}

impl Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}

impl TryFrom<&WireQuantity> for Quantity {
    type Error = QuantityError;
    fn try_from(wire: &WireQuantity) -> Result<Self, Self::Error> {
        wire.0.parse()
    }
}

impl From<Quantity> for WireQuantity {
    fn from(quantity: Quantity) -> Self {
        Self(quantity.to_string())
    }
}

/// A text cut into its parts.
struct Parts<'a> {
    negative: bool,
    whole: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

/// Cuts as upstream's `parseQuantityString` does, which accepts a little more
/// than the grammar: digits may be missing altogether.
fn cut(text: &str) -> Result<Parts<'_>, QuantityError> {
    if text.is_empty() {
        return Err(QuantityError::Syntax);
    }
    let digits = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
    let negative = text.starts_with('-');
    let rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (whole, rest) = rest.split_at(digits(rest));
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(digits(rest)),
        None => ("", rest),
    };
    let exponent = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    let exponent = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
    if digits(exponent) < exponent.len() {
        return Err(QuantityError::Syntax);
    }
    Ok(Parts {
        negative,
        whole,
        fraction,
        suffix,
    })
}

/// What a suffix multiplies with.
enum Factor {
    Ten(i64, Format),
    Two(u32),
}

fn factor(suffix: &str) -> Result<Factor, QuantityError> {
    if let Some((_, power)) = DECIMAL.iter().find(|(s, _)| *s == suffix) {
        return Ok(Factor::Ten(*power, Format::DecimalSi));
    }
    if let Some((_, power)) = BINARY.iter().find(|(s, _)| *s == suffix) {
        return Ok(Factor::Two(*power));
    }
    let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Suffix)?;
    let power = exponent.parse::<i32>().map_err(|_| QuantityError::Suffix)?;
    Ok(Factor::Ten(i64::from(power), Format::DecimalExponent))
}

/// `digits` (most significant first) times ten to `power`, rounded up;
/// saturates.
fn shifted(digits: &[u8], power: i64) -> i128 {
    let dropped = usize::try_from(power.min(0).unsigned_abs()).unwrap_or(usize::MAX).min(digits.len());
    let (kept, lost) = digits.split_at(digits.len() - dropped);
    let mut total = 0_i128;
    for digit in kept {
        total = total.saturating_mul(10).saturating_add(i128::from(*digit));
    }
    // 39 tens exceed the type whatever they multiply, except zero.
    for _ in 0..power.clamp(0, 39) {
        total = total.saturating_mul(10);
    }
    total.saturating_add(i128::from(lost.iter().any(|d| *d != 0)))
}

fn double(digits: &mut Vec<u8>) {
    let mut carry = 0;
    for digit in digits.iter_mut().rev() {
        let twice = *digit * 2 + carry;
        *digit = twice % 10;
        carry = twice / 10;
    }
    if carry > 0 {
        digits.insert(0, carry);
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    /// Amounts below one nano are rounded away from zero to a nano, binary
    /// ones above 2^63-1 are cut to that, as upstream does.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Parts {
            negative,
            whole,
            fraction,
            suffix,
        } = cut(text)?;
        let whole = whole.trim_start_matches('0');
        let (nanos, format) = match factor(suffix)? {
            Factor::Ten(power, format) => {
                let digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).map(|b| b - b'0').collect();
                let places = i64::try_from(fraction.len()).unwrap_or(i64::MAX);
                (shifted(&digits, power.saturating_add(9).saturating_sub(places)), format)
            }
            // More than 40 digits are far above the cap.
            Factor::Two(_) if whole.len() > 40 => (BINARY_MAX_NANOS, Format::BinarySi),
            Factor::Two(power) => {
                let (near, far) = fraction.split_at(fraction.len().min(FRACTION_DIGITS));
                let mut digits: Vec<u8> = whole.bytes().chain(near.bytes()).map(|b| b - b'0').collect();
                // What lies beyond only decides whether there is something to round up.
                digits.push(u8::from(far.bytes().any(|b| b != b'0')));
                for _ in 0..power {
                    double(&mut digits);
                }
                let places = i64::try_from(near.len() + 1).unwrap_or(i64::MAX);
                (shifted(&digits, 9 - places).min(BINARY_MAX_NANOS), Format::BinarySi)
            }
        };
        let format = if format == Format::BinarySi && nanos > 0 && nanos < NANO {
            Format::DecimalSi
        } else {
            format
        };
        Ok(Self {
            nanos: if negative { -nanos } else { nanos },
            format,
        })
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_zero() {
            return f.write_str("0");
        }
        let whole = self.nanos / NANO;
        if self.format == Format::BinarySi && self.nanos % NANO == 0 && whole.abs() >= 1024 {
            let mut number = whole;
            let mut suffix = "";
            for (larger, _) in BINARY {
                if number % 1024 != 0 {
                    break;
                }
                number /= 1024;
                suffix = larger;
            }
            return write!(f, "{number}{suffix}");
        }
        // The largest power of ten that is a multiple of three and divides it.
        let mut number = self.nanos;
        let mut power = -9;
        while number % 1000 == 0 && (power < 18 || self.format == Format::DecimalExponent) {
            number /= 1000;
            power += 3;
        }
        match self.format {
            Format::DecimalExponent if power == 0 => write!(f, "{number}"),
            Format::DecimalExponent => write!(f, "{number}e{power}"),
            Format::DecimalSi | Format::BinarySi => {
                let suffix = DECIMAL.iter().find(|(_, p)| *p == power).map_or("", |(s, _)| *s);
                write!(f, "{number}{suffix}")
            }
        }
    }
}

#[cfg(test)]
mod tests;
