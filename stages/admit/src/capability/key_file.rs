//! The key file: `{"keys":[{"id":"k1","secret_hex":"<64 hex digits>"}]}`, readable by its owner alone.
//!
//! Secrets are wiped from memory as soon as they have been derived or written, and no message about the file repeats
//! any of it.

use crate::error::KeyringError;
use rewarder_model::world::Entropy;
use serde::{Deserialize, Deserializer, de};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use zeroize::Zeroizing;

/// Most keys in a file: a year of weekly rotation. It bounds the search.
pub const KEYS_MAX: usize = 64;

/// Largest key file: 64 keys with the longest ids, and as much again for white space.
pub const FILE_BYTES_MAX: u64 = 32 * 1024;

/// Longest key id.
const ID_CHARS_MAX: usize = 64;

const SECRET_BYTES: usize = 32;

/// Adds a fresh key to the key file at `path`, which is made if it is not there, and returns the key's id:
/// `id`, or the first free one of `k1`, `k2` ... The file is replaced at once, with mode 0600: a reader sees
/// the old keys or the new.
pub fn keygen(path: &Path, id: Option<&str>, entropy: &dyn Entropy) -> Result<String, KeyringError> {
    let mut file = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => KeyFile { keys: Vec::new() },
        _ => KeyFile::read(path)?,
    };
    let is_free = |id: &str| file.keys.iter().all(|key| key.id != id);
    let id = match id {
        Some(id) => id.to_owned(),
        None => (1..).map(|n| format!("k{n}")).find(|id| is_free(id)).unwrap_or_default(),
    };
    let mut secret = Secret(Zeroizing::new([0; SECRET_BYTES]));
    entropy.fill(&mut *secret.0);
    file.keys.push(KeyEntry { id: id.clone(), secret_hex: secret });
    file.check().map_err(|rule| KeyringError::Content { path: path.into(), rule })?;
    file.replace(path, entropy)?;
    Ok(id)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyFile {
    pub keys: Vec<KeyEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyEntry {
    pub id: String,
    pub secret_hex: Secret,
}

pub(super) struct Secret(pub Zeroizing<[u8; SECRET_BYTES]>);

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(d)?);
        unhex(&text).map(Self).ok_or_else(|| de::Error::custom("secret"))
    }
}

impl KeyFile {
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
        }
        Ok(())
    }

    fn replace(&self, path: &Path, entropy: &dyn Entropy) -> Result<(), KeyringError> {
        let mut text = Zeroizing::new(String::with_capacity(FILE_BYTES_MAX as usize));
        text.push_str("{\"keys\":[");
        for (index, key) in self.keys.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            for part in
                [comma, "\n  {\"id\":\"", &key.id, "\",\"secret_hex\":\"", &hex(&*key.secret_hex.0), "\"}"]
            {
                text.push_str(part);
            }
        }
        text.push_str("\n]}\n");
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
