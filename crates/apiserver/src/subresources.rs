//! Subresources that are more than a part of their object. `status` and
//! `finalize` are: see [`crate::call::Part`].

pub(crate) mod binding;
pub(crate) mod connect;
pub(crate) mod eviction;
pub(crate) mod log;
pub(crate) mod proxy;
pub(crate) mod scale;
pub(crate) mod token;
pub(crate) mod upgrade;

#[cfg(test)]
mod tests;
