//! Power cuts, simulated: every state that a cut can leave a bank's volume in, and the judge that
//! looks at it.
//!
//! The model is littlefs's power-loss runner. The real exchange runs once on a recording device;
//! from the recording follow all states a disk may be in when the power fails: every prefix of
//! the sector writes, every subset of the writes between two flushes, and sectors torn in the
//! middle. Each state is judged by [`reader`] and [`census`], which share no code with the agent
//! and were written from VMware's loader and Microsoft's specification; then the agent runs
//! again, is cut again, and has to reach its end.
//!
//! Not here: whole machines that are killed (the tests that boot the image), and faults of the
//! archive's content (the agent's own tests).

pub mod census;
pub mod content;
pub mod cuts;
pub mod device;
pub mod fence;
pub mod fsck;
pub mod maker;
pub mod medium;
pub mod reader;
pub mod record;
pub mod rng;
pub mod runner;
pub mod whole;
