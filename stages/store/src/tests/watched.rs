//! A disk that notes every operation, checks their order, and dies after as many as it is told.

use crate::disk::{Disk, Entry, Guard, ReadAt, WriteFile};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

pub(crate) struct Watched {
    under: Arc<dyn Disk>,
    /// Changes that still succeed; below zero, the machine is off.
    left: Arc<AtomicI64>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Files with bytes that are not synced.
    dirty: BTreeSet<PathBuf>,
    /// Directories with names that are not synced.
    loose: BTreeSet<PathBuf>,
    log: Vec<String>,
}

fn off() -> io::Error {
    io::Error::other("the machine is off")
}

impl Watched {
    pub(crate) fn new(under: Arc<dyn Disk>) -> Self {
        Self { under, left: Arc::new(i64::MAX.into()), state: Arc::default() }
    }

    pub(crate) fn die_after(&self, changes: i64) {
        self.left.store(changes, Ordering::Relaxed);
    }

    pub(crate) fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }

    /// Final names that a crash could take back, though someone may have been told of them.
    pub(crate) fn loose(&self) -> Vec<PathBuf> {
        self.state.lock().unwrap().loose.iter().filter(|dir| !dir.starts_with("tmp")).cloned().collect()
    }

    fn change(&self, what: &str, path: &Path) -> io::Result<()> {
        if self.left.fetch_sub(1, Ordering::Relaxed) <= 0 {
            return Err(off());
        }
        self.state
            .lock()
            .unwrap()
            .log
            .push(format!("{what} {}", path.components().next().unwrap().as_os_str().display()));
        Ok(())
    }

    fn named(&self, from: Option<&Path>, to: &Path) {
        let mut state = self.state.lock().unwrap();
        if let Some(from) = from {
            let dirty: Vec<_> = state.dirty.iter().filter(|path| path.starts_with(from)).collect();
            assert!(
                dirty.is_empty(),
                "{} got its name before its bytes were synced: {dirty:?}",
                to.display()
            );
            assert!(
                !state.loose.contains(from),
                "{} was renamed before its names were synced",
                from.display()
            );
        }
        state.loose.insert(to.parent().unwrap().to_owned());
    }
}

struct WatchedFile {
    under: Box<dyn WriteFile>,
    path: PathBuf,
    left: Arc<AtomicI64>,
    state: Arc<Mutex<State>>,
}

impl WriteFile for WatchedFile {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.left.fetch_sub(1, Ordering::Relaxed) <= 0 {
            let _ = self.under.write_all(&bytes[..bytes.len() / 2]);
            return Err(off());
        }
        self.state.lock().unwrap().dirty.insert(self.path.clone());
        self.under.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.left.fetch_sub(1, Ordering::Relaxed) <= 0 {
            return Err(off());
        }
        let mut state = self.state.lock().unwrap();
        state.dirty.remove(&self.path);
        state.log.push("sync file".into());
        self.under.sync()
    }
}

impl Disk for Watched {
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.change("mkdir", path)?;
        self.under.make_dir(path)?;
        self.named(None, path);
        Ok(())
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        self.change("create", path)?;
        let under = self.under.create_new(path)?;
        self.named(None, path);
        Ok(Box::new(WatchedFile {
            under,
            path: path.into(),
            left: self.left.clone(),
            state: self.state.clone(),
        }))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        let under = self.under.append(path)?;
        Ok(Box::new(WatchedFile {
            under,
            path: path.into(),
            left: self.left.clone(),
            state: self.state.clone(),
        }))
    }

    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        self.change("truncate", path)?;
        self.under.truncate(path, len)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn ReadAt>> {
        self.under.open(path)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change("link", to)?;
        self.under.link(from, to)?;
        self.named(Some(from), to);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change("rename", to)?;
        self.under.rename(from, to)?;
        self.named(Some(from), to);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if self.left.load(Ordering::Relaxed) <= 0 {
            return Err(off());
        }
        self.under.remove(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let what = if path == Path::new("") { Path::new("root") } else { path };
        self.change("sync", what)?;
        self.state.lock().unwrap().loose.remove(path);
        self.under.sync_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.under.list(path)
    }

    fn file_len(&self, path: &Path) -> io::Result<Option<u64>> {
        self.under.file_len(path)
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Guard>> {
        self.under.try_lock(path)
    }
}
