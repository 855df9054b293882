//! What each plugin says and does, through the whole write path.

mod accounts;
mod limits;
mod priorities;
mod requests;
mod security;
