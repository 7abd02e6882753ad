//! Temporary.

use super::LsArgs;
use crate::error::{Error, Result};

pub(super) fn run(args: &LsArgs) -> Result<()> {
    let what = format!("{}: ls: nothing yet (json: {})", args.source.display(), args.json);
    Err(Error::Usage(what))
}
