//! Linear models of conditional quantiles: fast to fit, hard to beat on load with good features.
//!
//! The story in the order in which data flows:
//!
//! * [`Design`] and [`Problem`]: a dense matrix of features, the target and a weight of each row;
//! * [`Standardised`]: columns of mean 0 and standard deviation 1; constant columns and rows that do not count are gone;
//! * [`ridge`]: least squares with an L2 penalty, its λ chosen by leave-one-out in closed form; [`loo_residuals`] and
//!   [`out_of_fold_residuals`] say how wrong it is on rows that it has not seen;
//! * [`quantile_fit`]: from there, a damped Newton method on the smoothed pinball loss, all levels side by side;
//!   [`fit_many`] does it for many problems, as one for each series and hour of the day;
//! * [`LinearQuantiles`]: the fitted model in the units of its features, which predicts and explains.
//!
//! Everything is deterministic: sums are made per chunk of rows and added in the order of chunks, so that the number of
//! threads never shows in a result.

mod design;
mod model;
mod newton;
mod panel;
mod pinball;
mod quantile_fit;
mod ridge;
mod square;
mod standardised;
mod tridiagonal;

#[cfg(test)]
mod tests;

pub use design::{Design, LinearError, Problem};
pub use model::{Contributions, LinearQuantiles};
pub use quantile_fit::{LevelFit, Penalty, QuantileFit, QuantileOptions, ShrinkTo, fit_many, quantile_fit};
pub use ridge::{Ridge, default_lambdas, loo_residuals, out_of_fold_residuals, ridge};
pub use standardised::Standardised;
