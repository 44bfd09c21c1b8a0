//! The key file: `{"keys":[{"id":"k1","secret_hex":"<64 hex digits>"}]}`, readable by its owner alone.
//!
//! Secrets are wiped from memory as soon as they have been derived or written, and no message about the file repeats
//! any of it.

use super::timestamp::Timestamp;
use crate::error::KeyringError;
use rewarder_model::world::Entropy;
use serde::{Deserialize, Deserializer, de};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;
use zeroize::Zeroizing;

/// Most keys in a file: a year of weekly rotation. It bounds the search.
pub const KEYS_MAX: usize = 64;

/// Most revoked tokens and keys. A token that expires needs no entry for longer than it lives, and those of a key that
/// is gone are forgotten with it, so that this is room for an incident and not for years.
pub const REVOKED_MAX: usize = 4096;

/// Longest entry of the revoked: a key id, a colon and a nonce twice as long as ours.
const REVOKED_CHARS_MAX: usize = ID_CHARS_MAX + 1 + 64;

/// Largest key file: all keys and all revoked with the longest ids, and a third of that again for white space.
pub const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Longest key id.
const ID_CHARS_MAX: usize = 64;

const SECRET_BYTES: usize = 32;

/// Adds a fresh key to the key file at `path`, which is made if it is not there, and returns the key's id:
/// `id`, or the first free one of `k1`, `k2` ... The file is replaced at once, with mode 0600: a reader sees
/// the old keys or the new.
pub fn keygen(path: &Path, id: Option<&str>, entropy: &dyn Entropy) -> Result<String, KeyringError> {
    let mut file = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => KeyFile::default(),
        _ => KeyFile::read(path)?,
    };
    let id = file.add(id, entropy);
    file.store(path, entropy)?;
    Ok(id)
}

/// What a rotation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotated {
    /// The key that mints from now on.
    pub minting: String,
    /// Keys that still verify, each until then.
    pub retiring: Vec<(String, Timestamp)>,
    /// Keys whose time had passed: their secrets are gone.
    pub pruned: Vec<String>,
}

/// Adds a key that mints from now on, lets all others verify until `until` (or their own earlier end), and takes out
/// those whose end has passed at `now` (Unix time).
pub fn rotate(
    path: &Path,
    id: Option<&str>,
    now: Duration,
    until: Timestamp,
    entropy: &dyn Entropy,
) -> Result<Rotated, KeyringError> {
    let mut file = KeyFile::read(path)?;
    // Before anything is pruned, so that no id comes twice while tokens of the first may be about.
    let minting = file.add(id, entropy);
    let mut pruned = Vec::new();
    file.keys.retain(|key| {
        let is_over = key.retire_after.is_some_and(|end| now >= end.unix());
        if is_over {
            pruned.push(key.id.clone());
        }
        !is_over
    });
    let others = file.keys.len().saturating_sub(1);
    let retiring = file.keys[..others].iter_mut().map(|key| {
        let end = key.retire_after.filter(|end| end.unix() < until.unix()).unwrap_or(until);
        key.retire_after = Some(end);
        (key.id.clone(), end)
    });
    let retiring = retiring.collect();
    // Their key's end is theirs.
    file.revoked
        .retain(|entry| !entry.split_once(':').is_some_and(|(key, _)| pruned.iter().any(|id| id == key)));
    file.store(path, entropy)?;
    Ok(Rotated { minting, retiring, pruned })
}

/// Revokes a token by its identifier `{key id}:{nonce}`, or a whole key by its id: its secret is taken out of the file,
/// and its id is never given again. False if that was so already.
pub fn revoke(path: &Path, what: &str, entropy: &dyn Entropy) -> Result<bool, KeyringError> {
    let mut file = KeyFile::read(path)?;
    if file.revoked.iter().any(|entry| entry == what) {
        return Ok(false);
    }
    let content = |rule: &str| KeyringError::Content { path: path.into(), rule: rule.into() };
    let key = what.split_once(':').map_or(what, |(key, _)| key);
    if file.keys.iter().all(|entry| entry.id != key) {
        return Err(content("it has no key of that id, so that nothing of that key verifies"));
    }
    if key == what {
        if file.keys.last().is_some_and(|last| last.id == key) {
            return Err(content("this key mints; run `ronctl cap rotate` first, then revoke it"));
        }
        file.keys.retain(|entry| entry.id != key);
        file.revoked.retain(|entry| entry.split_once(':').is_none_or(|(of, _)| of != key));
    }
    file.revoked.push(what.to_owned());
    file.store(path, entropy)?;
    Ok(true)
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyFile {
    pub keys: Vec<KeyEntry>,
    /// `{key id}:{nonce}` of a token, or the id of a key.
    #[serde(default)]
    pub revoked: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyEntry {
    pub id: String,
    pub secret_hex: Secret,
    /// When it verifies no more; the minting key has no end.
    #[serde(default, deserialize_with = "timestamp")]
    pub retire_after: Option<Timestamp>,
}

fn timestamp<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Timestamp>, D::Error> {
    let text = String::deserialize(d)?;
    text.parse().map(Some).map_err(|_| de::Error::custom("retire_after"))
}

pub(super) struct Secret(pub Zeroizing<[u8; SECRET_BYTES]>);

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(d)?);
        unhex(&text).map(Self).ok_or_else(|| de::Error::custom("secret"))
    }
}

impl KeyFile {
    /// Adds a fresh key at the end, where the minting one is.
    fn add(&mut self, id: Option<&str>, entropy: &dyn Entropy) -> String {
        let is_free = |id: &str| {
            self.keys.iter().all(|key| key.id != id) && self.revoked.iter().all(|entry| entry != id)
        };
        // Bounded: at most as many are taken as the file holds.
        let id = match id {
            Some(id) => id.to_owned(),
            None => (1..).map(|n| format!("k{n}")).find(|id| is_free(id)).unwrap_or_default(),
        };
        let mut secret = Secret(Zeroizing::new([0; SECRET_BYTES]));
        entropy.fill(&mut *secret.0);
        self.keys.push(KeyEntry { id: id.clone(), secret_hex: secret, retire_after: None });
        id
    }

    fn store(&self, path: &Path, entropy: &dyn Entropy) -> Result<(), KeyringError> {
        self.check().map_err(|rule| KeyringError::Content { path: path.into(), rule })?;
        self.replace(path, entropy)
    }

    pub fn read(path: &Path) -> Result<Self, KeyringError> {
        let failed = |act| move |source| KeyringError::Io { act, path: path.into(), source };
        let file = File::open(path).map_err(failed("open"))?;
        // Of the open file, so that the answer is about what is then read.
        let metadata = file.metadata().map_err(failed("look at"))?;
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyringError::Mode { path: path.into(), mode });
        }
        let content = |rule: String| KeyringError::Content { path: path.into(), rule };
        // Room for all at once: growing would leave copies of the secrets behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX as usize + 1));
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed("read"))?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(content(format!("it is larger than {FILE_BYTES_MAX} bytes")));
        }
        let keys: Self = serde_json::from_slice(&bytes).map_err(|error| {
            // Where, and never serde's own words: they may quote what stands there.
            let (line, column) = (error.line(), error.column());
            content(format!(
                "line {line}, column {column} is not of the form \
                 {{\"keys\":[{{\"id\":\"k1\",\"secret_hex\":\"64 hex digits\"}}]}}"
            ))
        })?;
        keys.check().map_err(content)?;
        Ok(keys)
    }

    fn check(&self) -> Result<(), String> {
        if self.keys.is_empty() {
            return Err("it holds no key; `ronctl cap keygen` adds one".into());
        }
        if self.keys.len() > KEYS_MAX {
            return Err(format!(
                "it holds more than {KEYS_MAX} keys; remove those that signed nothing still in force"
            ));
        }
        for (index, key) in self.keys.iter().enumerate() {
            let is_char = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
            if !(1..=ID_CHARS_MAX).contains(&key.id.len()) || !key.id.bytes().all(is_char) {
                return Err(format!(
                    "the id of key {} is not 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-'",
                    index + 1
                ));
            }
            if self.keys[..index].iter().any(|other| other.id == key.id) {
                return Err(format!("two keys have the id {}", key.id));
            }
            if self.revoked.contains(&key.id) {
                return Err(format!(
                    "the key {} is revoked and must not be there; give a new key another id",
                    key.id
                ));
            }
        }
        if self.keys.last().is_some_and(|last| last.retire_after.is_some()) {
            return Err("its last key, the minting one, has a `retire_after`; run `ronctl cap rotate`".into());
        }
        if self.revoked.len() > REVOKED_MAX {
            return Err(format!(
                "more than {REVOKED_MAX} are revoked; revoke the key that signed them instead"
            ));
        }
        let is_char = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b':');
        if let Some(at) = self
            .revoked
            .iter()
            .position(|entry| !(1..=REVOKED_CHARS_MAX).contains(&entry.len()) || !entry.bytes().all(is_char))
        {
            return Err(format!(
                "entry {} of the revoked is not 1 to {REVOKED_CHARS_MAX} of A-Z, a-z, 0-9, '.', '_', '-' and ':'",
                at + 1
            ));
        }
        Ok(())
    }

    fn replace(&self, path: &Path, entropy: &dyn Entropy) -> Result<(), KeyringError> {
        let mut text = Zeroizing::new(String::with_capacity(FILE_BYTES_MAX as usize));
        text.push_str("{\"keys\":[");
        for (index, key) in self.keys.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            for part in
                [comma, "\n  {\"id\":\"", &key.id, "\",\"secret_hex\":\"", &hex(&*key.secret_hex.0), "\""]
            {
                text.push_str(part);
            }
            if let Some(end) = key.retire_after {
                text.push_str(&format!(",\"retire_after\":\"{end}\""));
            }
            text.push('}');
        }
        text.push_str("\n]");
        for (index, entry) in self.revoked.iter().enumerate() {
            text.push_str(if index == 0 { ",\"revoked\":[" } else { "," });
            text.push_str(&format!("\n  \"{entry}\""));
        }
        if !self.revoked.is_empty() {
            text.push_str("\n]");
        }
        text.push_str("}\n");
        let mut suffix = [0; 8];
        entropy.fill(&mut suffix);
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}.new", hex(&suffix).as_str()));
        let temporary = Path::new(&name);
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(temporary, path)?;
            // The name is durable only with its directory.
            let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(directory)?.sync_all()
        };
        write().map_err(|source| {
            let _ = fs::remove_file(temporary);
            KeyringError::Io { act: "write", path: path.into(), source }
        })
    }
}

pub(super) fn hex(bytes: &[u8]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(bytes.len() * 2));
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
        }
    }
    text
}

fn unhex(text: &str) -> Option<Zeroizing<[u8; SECRET_BYTES]>> {
    if text.len() != 2 * SECRET_BYTES {
        return None;
    }
    let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16).map(|d| d as u8);
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            return None;
        };
        *byte = high << 4 | low;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::keyring::Keyring;
    use super::*;
    use rewarder_model::world::testing::SeededEntropy;

    fn write(path: &Path, text: &str, mode: u32) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn keygen_creates_then_extends() {
        let dir = tempfile::tempdir().unwrap();
        let (path, entropy) = (dir.path().join("keys.json"), SeededEntropy::new(7));
        assert_eq!(keygen(&path, None, &entropy).unwrap(), "k1");
        let first = fs::read_to_string(&path).unwrap();
        assert_eq!(keygen(&path, None, &entropy).unwrap(), "k2");
        assert_eq!(keygen(&path, Some("summer"), &entropy).unwrap(), "summer");
        assert!(keygen(&path, Some("k1"), &entropy).is_err());
        assert!(keygen(&path, Some("a:b"), &entropy).is_err());
        let ring = Keyring::load(&path).unwrap();
        assert_eq!(ring.ids().collect::<Vec<_>>(), ["k1", "k2", "summer"]);
        let old = first.trim_end_matches("\n]}\n");
        assert!(fs::read_to_string(&path).unwrap().starts_with(old), "the old key is still the old key");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn rotation_overlaps_then_prunes_and_revocation_holds() {
        let dir = tempfile::tempdir().unwrap();
        let (path, entropy) = (dir.path().join("keys.json"), SeededEntropy::new(7));
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let (now, until) = (at("2026-11-01T00:00:00Z"), at("2026-12-01T00:00:00Z"));
        keygen(&path, None, &entropy).unwrap();
        let caveats = ["tenant = a", "scope = rewarder.run"].map(|text| text.parse().unwrap());
        let old = Keyring::load(&path).unwrap().mint(&caveats, &entropy).unwrap();
        let rotated = rotate(&path, None, now.unix(), until, &entropy).unwrap();
        let first = Rotated { minting: "k2".into(), retiring: vec![("k1".into(), until)], pruned: vec![] };
        assert_eq!(rotated, first);
        let ring = Keyring::load(&path).unwrap();
        assert_eq!(ring.state().collect::<Vec<_>>(), [("k1", Some(until)), ("k2", None)]);
        assert!(ring.verify(&old, now.unix()).is_ok() && ring.verify(&old, until.unix()).is_err());

        // An earlier end stays, and what has passed its end goes.
        let later = at("2027-01-01T00:00:00Z");
        let rotated = rotate(&path, None, now.unix(), later, &entropy).unwrap();
        assert_eq!(rotated.retiring, [("k1".to_owned(), until), ("k2".to_owned(), later)]);
        assert!(revoke(&path, "k1:abc", &entropy).unwrap() && !revoke(&path, "k1:abc", &entropy).unwrap());
        let rotated = rotate(&path, None, until.unix(), later, &entropy).unwrap();
        assert_eq!((rotated.minting.as_str(), rotated.pruned), ("k4", vec!["k1".to_owned()]));
        assert_eq!(Keyring::load(&path).unwrap().revoked(), 0, "forgotten with their key");

        // The minting key is not revoked; another is gone at once, and its id with it.
        assert!(revoke(&path, "k4", &entropy).is_err() && revoke(&path, "k9", &entropy).is_err());
        let token = Keyring::load(&path).unwrap().mint(&caveats, &entropy).unwrap();
        rotate(&path, None, now.unix(), later, &entropy).unwrap();
        assert!(Keyring::load(&path).unwrap().verify(&token, now.unix()).is_ok());
        assert!(revoke(&path, "k4", &entropy).unwrap());
        assert!(Keyring::load(&path).unwrap().verify(&token, now.unix()).is_err());
        assert!(keygen(&path, Some("k4"), &entropy).is_err());
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.json");
        let good = format!("{{\"keys\":[{{\"id\":\"k1\",\"secret_hex\":\"{}\"}}]}}", "0F".repeat(32));
        for mode in [0o644, 0o640, 0o604, 0o660, 0o610] {
            write(&path, &good, mode);
            let text = Keyring::load(&path).unwrap_err().to_string();
            let expect =
                format!("{} has mode {mode:04o}: others may read it; run `chmod 600 {0}`", path.display());
            assert!(text.ends_with(&expect), "{text}");
            assert!(keygen(&path, None, &SeededEntropy::new(1)).is_err());
        }
        for mode in [0o600, 0o400] {
            write(&path, &good, mode);
            Keyring::load(&path).unwrap();
        }
    }

    #[test]
    fn unusable_files_are_named_and_their_secrets_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.json");
        let key = |id: &str, secret: &str| format!("{{\"id\":\"{id}\",\"secret_hex\":\"{secret}\"}}");
        let secret = "0f".repeat(32);
        let file = |keys: &[String]| format!("{{\"keys\":[{}]}}", keys.join(","));
        let many: Vec<_> = (0..=KEYS_MAX).map(|n| key(&format!("k{n}"), &secret)).collect();
        for (text, says) in [
            (String::new(), "line 1, column 0"),
            (file(&[]), "holds no key"),
            (file(&[key("k1", &secret[1..])]), "not of the form"),
            (file(&[key("k1", &format!("g{}", &secret[1..]))]), "not of the form"),
            (file(&[key("k1", &format!("é{}", &secret[2..]))]), "not of the form"),
            (file(&["{\"id\":\"k1\"}".into()]), "not of the form"),
            (
                format!("{{\"keys\":[{{\"id\":\"k1\",\"secret_hex\":\"{secret}\",\"{secret}\":1}}]}}"),
                "not of the form",
            ),
            (file(&[key("a:b", &secret)]), "the id of key 1"),
            (file(&[key("k1", &secret), key("k1", &secret)]), "two keys"),
            (file(&many), "more than 64 keys"),
            (" ".repeat(FILE_BYTES_MAX as usize + 1), "larger than"),
        ] {
            write(&path, &text, 0o600);
            let error = Keyring::load(&path).unwrap_err().to_string();
            assert!(
                error.contains(says) && error.contains("keys.json") && !error.contains("0f0f"),
                "{error}"
            );
        }
        let error = Keyring::load(&dir.path().join("none")).unwrap_err().to_string();
        assert!(error.starts_with("cannot open the key file"), "{error}");
    }
}
