//! tmp
use thiserror::Error;
#[derive(Debug, Error)]
#[error("tmp")]
pub struct ConfigStoreError;
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreOwner { Vmkernel, Passthru, Other(String), Absent }
impl std::fmt::Display for StoreOwner { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { write!(f, "{self:?}") } }
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreDevice { pub identifier: String, pub owner: StoreOwner }
pub fn devices(_: &[u8]) -> Result<Vec<StoreDevice>, ConfigStoreError> { Ok(vec![]) }
pub fn give_back(d: &[u8], _: &[String]) -> Result<Vec<u8>, ConfigStoreError> { Ok(d.to_vec()) }
