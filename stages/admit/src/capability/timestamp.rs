//! Moments as RFC 3339 writes them, in UTC: `2026-11-23T23:14:05Z`, with up to nine digits of a second.
//!
//! One form and no other: capital `T` and `Z`, no offset, no leap second. A date that could be read in two
//! ways must not decide how long a capability lives. The calendar is Howard Hinnant's `days_from_civil`.

use crate::error::CaveatError;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

const RULE: CaveatError =
    CaveatError("a moment is written like 2026-11-23T23:14:05Z, in UTC, from 1970 to 9999");
const DAY_SECONDS: u64 = 86_400;
/// 9999-12-31T23:59:59Z.
const LAST_SECOND: u64 = 253_402_300_799;

/// Time since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(Duration);

impl Timestamp {
    /// A moment, if its year has four digits.
    pub fn new(unix: Duration) -> Option<Self> {
        (unix.as_secs() <= LAST_SECOND).then_some(Self(unix))
    }

    /// Time since 1970-01-01T00:00:00Z.
    pub fn unix(self) -> Duration {
        self.0
    }
}

/// When something ends, as a person says it: a moment, or a span from `now` such as `90s`, `30m`, `2h`, `7d`.
pub fn expiry(text: &str, now: Duration) -> Result<Timestamp, CaveatError> {
    const SPAN: CaveatError =
        CaveatError("an expiry is a span such as 30m, 2h or 7d, or written like 2026-11-23T23:14:05Z");
    let unit = match text.bytes().last() {
        Some(b's') => 1,
        Some(b'm') => 60,
        Some(b'h') => 3600,
        Some(b'd') => DAY_SECONDS,
        _ => return text.parse().map_err(|_| SPAN),
    };
    let digits = &text[..text.len() - 1];
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(SPAN);
    }
    let span = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).ok_or(SPAN)?;
    // Whole seconds: nobody means the nanoseconds of the moment at which they pressed return.
    let end = now.as_secs().checked_add(span).ok_or(SPAN)?;
    Timestamp::new(Duration::from_secs(end)).ok_or(SPAN)
}

impl FromStr for Timestamp {
    type Err = CaveatError;

    fn from_str(text: &str) -> Result<Self, CaveatError> {
        let bytes = text.as_bytes();
        let (whole, rest) = bytes.split_at_checked(19).ok_or(RULE)?;
        let shape = b"dddd-dd-ddTdd:dd:dd";
        let fits =
            |(byte, shape): (&u8, &u8)| if *shape == b'd' { byte.is_ascii_digit() } else { byte == shape };
        if !whole.iter().zip(shape).all(fits) {
            return Err(RULE);
        }
        let number =
            |from: usize, to: usize| whole[from..to].iter().fold(0, |n, b| n * 10 + u64::from(b - b'0'));
        let (year, month, day) = (number(0, 4), number(5, 7), number(8, 10));
        let (hour, minute, second) = (number(11, 13), number(14, 16), number(17, 19));
        let possible = year >= 1970
            && (1..=12).contains(&month)
            && (1..=days_in(year, month)).contains(&day)
            && hour < 24
            && minute < 60
            && second < 60;
        if !possible {
            return Err(RULE);
        }
        let nanos = match rest {
            b"Z" => 0,
            [b'.', digits @ .., b'Z']
                if (1..=9).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit) =>
            {
                let scale = 10u32.pow(9 - digits.len() as u32);
                digits.iter().fold(0, |n, b| n * 10 + u32::from(b - b'0')) * scale
            }
            _ => return Err(RULE),
        };
        let seconds = ((days_since_1970(year, month, day) * 24 + hour) * 60 + minute) * 60 + second;
        Ok(Self(Duration::new(seconds, nanos)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (year, month, day) = civil(seconds / DAY_SECONDS);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        if self.0.subsec_nanos() > 0 {
            write!(f, ".{}", format!("{:09}", self.0.subsec_nanos()).trim_end_matches('0'))?;
        }
        f.write_str("Z")
    }
}

fn days_in(year: u64, month: u64) -> u64 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Years begin in March here, so that the leap day is the last of its year; 719,468 days lie between
/// 0000-03-01 and 1970.
fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let of_year = day_of_era - (365 * of_era + of_era / 4 - of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, seconds: u64) {
        let moment: Timestamp = text.parse().unwrap();
        assert_eq!(moment.unix().as_secs(), seconds, "{text}");
        assert_eq!(moment.to_string(), text);
    }

    #[test]
    fn agrees_with_date_u() {
        check("1970-01-01T00:00:00Z", 0);
        check("2000-02-29T12:34:56Z", 951_827_696);
        check("2026-11-23T23:14:05Z", 1_795_475_645);
        check("2100-03-01T00:00:00Z", 4_107_542_400);
        check("9999-12-31T23:59:59Z", LAST_SECOND);
        check("2026-11-23T23:14:05.25Z", 1_795_475_645);
    }

    #[test]
    fn every_day_comes_back() {
        for day in 0..=LAST_SECOND / DAY_SECONDS {
            let (year, month, date) = civil(day);
            assert_eq!(days_since_1970(year, month, date), day);
            assert!(date <= days_in(year, month));
        }
    }

    #[test]
    fn refuses_other_forms() {
        for bad in [
            "",
            "2026-11-23",
            "2026-11-23T23:14:05",
            "2026-11-23T23:14:05z",
            "2026-11-23t23:14:05Z",
            "2026-11-23 23:14:05Z",
            "2026-11-23T23:14:05+00:00",
            "2026-11-23T23:14:05.Z",
            "2026-11-23T23:14:05.1234567890Z",
            "2026-11-23T23:14:60Z",
            "2026-11-23T24:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-04-31T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "+026-11-23T23:14:05Z",
            "2026-11-23T23:14:0éZ",
        ] {
            assert_eq!(bad.parse::<Timestamp>(), Err(RULE), "{bad}");
        }
    }

    #[test]
    fn spans_count_from_now() {
        let now = Duration::new(1_795_475_645, 999);
        let text = |span| expiry(span, now).map(|t| t.to_string());
        assert_eq!(text("2h").unwrap(), "2026-11-24T01:14:05Z");
        assert_eq!(text("90s").unwrap(), "2026-11-23T23:15:35Z");
        assert_eq!(text("7d").unwrap(), "2026-11-30T23:14:05Z");
        assert_eq!(text("2027-01-01T00:00:00Z").unwrap(), "2027-01-01T00:00:00Z");
        for bad in ["", "h", "-1h", "+1h", "1.5h", "2", "2w", "99999999999999999999d", "9999999999d"] {
            assert!(text(bad).is_err(), "{bad}");
        }
    }
}
