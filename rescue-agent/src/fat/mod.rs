//! The FAT volume of a bank: reading, and the crash-safe exchange.
