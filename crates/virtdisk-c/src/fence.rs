//! The panic fence: no unwinding ever reaches C.
//!
//! Every exported function runs inside. A panic is a mistake of ours; it becomes an error code,
//! and the table of handles stays usable.

use std::panic::{AssertUnwindSafe, catch_unwind};

use api::{Code, Error};

/// Why a function answers what it answers; only the code crosses the ABI.
pub(crate) type Outcome<T = ()> = Result<T, Failed>;

/// A Windows code that is not success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failed(pub(crate) Code);

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self(error.code())
    }
}

impl From<Code> for Failed {
    fn from(code: Code) -> Self {
        Self(code)
    }
}

/// What every wrong argument gives (R-HND-5, R-HND-7).
pub(crate) const INVALID: Failed = Failed(Code::ERROR_INVALID_PARAMETER);

/// Runs `body`; 0 when it succeeds, its code when it fails, 31 when it panics.
pub(crate) fn fence(body: impl FnOnce() -> Outcome) -> u32 {
    // What a body shares with others is behind locks that survive a panic.
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => Code::ERROR_SUCCESS.0,
        Ok(Err(Failed(code))) => code.0,
        Err(_) => Code::ERROR_GEN_FAILURE.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // R-HND-1
    #[test]
    fn outcome_becomes_the_return_value() {
        assert_eq!(fence(|| Ok(())), 0);
        assert_eq!(fence(|| Err(INVALID)), 87);
        assert_eq!(fence(|| Err(Code::ERROR_BUSY.into())), 170);
    }

    #[test]
    fn panic_stays_inside() {
        assert_eq!(fence(|| panic!("a mistake")), 31);
    }
}
