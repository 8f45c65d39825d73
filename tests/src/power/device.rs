//! Block devices for the code under test: one that records, one that fails, one that is slow.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rescue_agent::disk::{BlockDevice, ByteOffset, SectorSize};

use super::medium::{Medium, Source};

/// One sector as it was written.
#[derive(Debug, Clone)]
pub struct SectorWrite {
    /// Its number on the device.
    pub sector: u64,
    /// Its new content.
    pub data: Arc<[u8]>,
}

/// What was written between two flushes, in order.
pub type Epoch = Vec<SectorWrite>;

/// What a run left: the disk as the code saw it last, and how it came to be.
#[derive(Debug, Clone)]
pub struct Recording {
    /// The content with every write in it.
    pub medium: Medium,
    /// The epochs that a flush closed. Empty ones are left out.
    pub closed: Vec<Epoch>,
    /// Writes that no flush has followed: any subset of them may be on the medium.
    pub open: Epoch,
    /// Number of flushes, the ignored one included.
    pub flushes: usize,
}

impl Recording {
    /// All epochs, the open one last.
    pub fn epochs(&self) -> Vec<Epoch> {
        let mut epochs = self.closed.clone();
        if !self.open.is_empty() {
            epochs.push(self.open.clone());
        }
        epochs
    }

    /// Number of sectors written.
    pub fn writes(&self) -> usize {
        self.closed.iter().map(Vec::len).sum::<usize>() + self.open.len()
    }
}

/// A disk in memory that notes every sector and every flush.
#[derive(Debug)]
pub struct Recorder {
    recording: Mutex<Recording>,
    ignored_flush: Option<usize>,
    sector_size: SectorSize,
    size: u64,
}

impl Recorder {
    /// A disk with this content.
    pub fn new(medium: Medium) -> Self {
        Self {
            sector_size: sector_size(&medium),
            size: medium.size(),
            recording: Mutex::new(Recording {
                medium,
                closed: Vec::new(),
                open: Vec::new(),
                flushes: 0,
            }),
            ignored_flush: None,
        }
    }

    /// A disk that lies: it does nothing at flush number `index`, so that two epochs become one.
    pub fn ignoring_flush(medium: Medium, index: usize) -> Self {
        Self {
            ignored_flush: Some(index),
            ..Self::new(medium)
        }
    }

    /// What was recorded so far.
    pub fn recording(&self) -> Recording {
        self.lock().clone()
    }

    /// What was recorded.
    pub fn into_recording(self) -> Recording {
        self.recording
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Recording> {
        self.recording
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn sector_size(medium: &Medium) -> SectorSize {
    u32::try_from(medium.sector_bytes())
        .ok()
        .and_then(SectorSize::new)
        .unwrap_or(SectorSize::S512)
}

impl BlockDevice for Recorder {
    fn sector_size(&self) -> SectorSize {
        self.sector_size
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> io::Result<()> {
        self.lock()
            .medium
            .read(offset.0, buf)
            .map_err(|error| io::Error::new(io::ErrorKind::UnexpectedEof, error.to_string()))
    }

    fn write_at(&self, offset: ByteOffset, data: &[u8]) -> io::Result<()> {
        let sector = u64::from(self.sector_size.bytes());
        let end = offset.0.saturating_add(data.len() as u64);
        if !offset.0.is_multiple_of(sector) || !end.is_multiple_of(sector) || end > self.size {
            let why = format!("{} bytes at {offset} are not whole sectors", data.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let mut recording = self.lock();
        let parts = data.chunks(self.sector_size.bytes() as usize);
        for (sector, part) in (offset.0 / sector..).zip(parts) {
            let data: Arc<[u8]> = part.into();
            recording.medium.put(sector, Arc::clone(&data));
            recording.open.push(SectorWrite { sector, data });
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let mut recording = self.lock();
        let ignored = self.ignored_flush == Some(recording.flushes);
        recording.flushes += 1;
        if !ignored && !recording.open.is_empty() {
            let epoch = std::mem::take(&mut recording.open);
            recording.closed.push(epoch);
        }
        Ok(())
    }
}

/// What a device can be asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Reading, from a cache or from the medium.
    Read,
    /// Writing.
    Write,
    /// Flushing.
    Flush,
}

/// How a device fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// What fails.
    pub operation: Operation,
    /// The how-manieth of these operations fails, from 0.
    pub index: usize,
    /// Whether everything after it fails as well, as on a disk that is gone.
    pub lasting: bool,
    /// Whether a failing write reached the cache all the same: a half of it, or all of it.
    pub landed: Landed,
}

/// How much of a failing write is there all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Landed {
    /// None of it.
    Nothing,
    /// Its first half, at least one sector.
    Half,
    /// All of it.
    All,
}

/// A [`Recorder`] that fails once, or from some point on.
#[derive(Debug)]
pub struct Faulty {
    inner: Recorder,
    fault: Fault,
    counts: [AtomicUsize; 3],
    struck: AtomicUsize,
}

impl Faulty {
    /// A disk with this content and this fault.
    pub fn new(medium: Medium, fault: Fault) -> Self {
        Self {
            inner: Recorder::new(medium),
            fault,
            counts: Default::default(),
            struck: AtomicUsize::new(0),
        }
    }

    /// Whether the fault has happened.
    pub fn has_struck(&self) -> bool {
        self.struck.load(Ordering::SeqCst) > 0
    }

    /// How often an operation was asked for.
    pub fn count(&self, operation: Operation) -> usize {
        self.counts[operation as usize].load(Ordering::SeqCst)
    }

    /// What was recorded so far.
    pub fn recording(&self) -> Recording {
        self.inner.recording()
    }

    fn fails(&self, operation: Operation) -> bool {
        let index = self.counts[operation as usize].fetch_add(1, Ordering::SeqCst);
        let now = operation == self.fault.operation && index == self.fault.index
            || self.fault.lasting && self.has_struck();
        if now {
            self.struck.fetch_add(1, Ordering::SeqCst);
        }
        now
    }
}

fn injected() -> io::Error {
    io::Error::other("Input/output error (injected)")
}

impl BlockDevice for Faulty {
    fn sector_size(&self) -> SectorSize {
        self.inner.sector_size()
    }

    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> io::Result<()> {
        match self.fails(Operation::Read) {
            true => Err(injected()),
            false => self.inner.read_at(offset, buf),
        }
    }

    fn write_at(&self, offset: ByteOffset, data: &[u8]) -> io::Result<()> {
        if !self.fails(Operation::Write) {
            return self.inner.write_at(offset, data);
        }
        let sector = self.sector_size().bytes() as usize;
        let landed = match self.fault.landed {
            Landed::Nothing => 0,
            Landed::Half => (data.len() / 2).next_multiple_of(sector),
            Landed::All => data.len(),
        };
        if landed > 0 {
            self.inner.write_at(offset, &data[..landed])?;
        }
        Err(injected())
    }

    fn flush(&self) -> io::Result<()> {
        match self.fails(Operation::Flush) {
            true => Err(injected()),
            false => self.inner.flush(),
        }
    }
}

/// A disk that does everything right and takes its time.
#[derive(Debug)]
pub struct Slow {
    inner: Recorder,
    pause: Duration,
    operations: AtomicUsize,
}

impl Slow {
    /// A disk that waits this long before each operation.
    pub fn new(medium: Medium, pause: Duration) -> Self {
        Self {
            inner: Recorder::new(medium),
            pause,
            operations: AtomicUsize::new(0),
        }
    }

    /// How many operations it was asked for.
    pub fn operations(&self) -> usize {
        self.operations.load(Ordering::SeqCst)
    }

    /// What was recorded.
    pub fn into_recording(self) -> Recording {
        self.inner.into_recording()
    }

    fn wait(&self) {
        self.operations.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(self.pause);
    }
}

impl BlockDevice for Slow {
    fn sector_size(&self) -> SectorSize {
        self.inner.sector_size()
    }

    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> io::Result<()> {
        self.wait();
        self.inner.read_at(offset, buf)
    }

    fn write_at(&self, offset: ByteOffset, data: &[u8]) -> io::Result<()> {
        self.wait();
        self.inner.write_at(offset, data)
    }

    fn flush(&self) -> io::Result<()> {
        self.wait();
        self.inner.flush()
    }
}

/// A device that is opened several times.
#[derive(Debug)]
pub struct Shared<D>(pub Arc<D>);

impl<D: BlockDevice> BlockDevice for Shared<D> {
    fn sector_size(&self) -> SectorSize {
        self.0.sector_size()
    }

    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buf)
    }

    fn read_medium(&self, offset: ByteOffset, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_medium(offset, buf)
    }

    fn write_at(&self, offset: ByteOffset, data: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, data)
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }
}
