//! What is known of each address of one Vault: which to ask first, which to pass over.
//!
//! Pure: events in, an order out. The node that works is kept while it works. One that takes no connection
//! or says that it serves nobody is passed over until it answers `sys/health`, asked after a growing pause;
//! so is one that leaves two requests in a row without a whole answer.

use std::time::Duration;

use crate::core::error::Failure;
use crate::core::identity::backoff_ceiling;
use crate::core::time::{BootTime, scaled};

/// Requests in a row without a whole answer after which a node is passed over.
const CUTS: u32 = 2;
/// The longest pause before a node is asked for its health again.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// All nodes, by number.
#[derive(Debug)]
pub(super) struct Standings {
    nodes: Vec<Standing>,
    /// The one that worked last.
    current: usize,
}

#[derive(Clone, Debug, Default)]
struct Standing {
    /// Requests in a row without a whole answer.
    cuts: u32,
    /// Questions for its health since it last worked.
    probes: u32,
    out: Option<Out>,
}

/// Why a node is passed over.
#[derive(Clone, Debug)]
struct Out {
    why: Failure,
    /// When to ask for its health.
    again: BootTime,
    /// Whether somebody is at it.
    probing: bool,
}

impl Standings {
    pub fn new(count: usize) -> Standings {
        Standings { nodes: vec![Standing::default(); count], current: 0 }
    }

    /// The nodes that are worth a request, the best first.
    pub fn worth_asking(&self) -> Vec<usize> {
        let count = self.nodes.len();
        let order = (0..count).map(|turn| (self.current + turn) % count);
        order.filter(|at| self.nodes[*at].out.is_none()).collect()
    }

    /// The nodes whose health must be asked for now. Each is to be told to [`Standings::probed`].
    pub fn due(&mut self, now: BootTime) -> Vec<usize> {
        let mut due = Vec::new();
        for (at, node) in self.nodes.iter_mut().enumerate() {
            if let Some(out) = node.out.as_mut().filter(|out| !out.probing && now >= out.again) {
                out.probing = true;
                due.push(at);
            }
        }
        due
    }

    /// Why none of them is worth a request.
    pub fn why_out(&self) -> Option<Failure> {
        self.nodes.iter().rev().find_map(|node| Some(node.out.as_ref()?.why.clone()))
    }

    /// A node has answered and serves.
    pub fn works(&mut self, at: usize) {
        self.nodes[at] = Standing::default();
        self.current = at;
    }

    /// Nothing could be sent to a node, or it serves nobody; `chance` is in `0..1`.
    pub fn is_out(&mut self, at: usize, now: BootTime, why: Failure, chance: f64) {
        let node = &mut self.nodes[at];
        // Requests that were on their way together must not make the pause longer together.
        if node.out.is_none() {
            let again = now + node.next_pause(chance);
            node.out = Some(Out { why, again, probing: false });
        }
        self.pass_over(at);
    }

    /// A node left a request without a whole answer.
    pub fn cut(&mut self, at: usize, now: BootTime, why: Failure, chance: f64) {
        self.nodes[at].cuts = self.nodes[at].cuts.saturating_add(1);
        if self.nodes[at].cuts >= CUTS {
            self.is_out(at, now, why, chance);
        }
        self.pass_over(at);
    }

    /// A node was asked for its health; `failure`: it has none.
    pub fn probed(&mut self, at: usize, now: BootTime, failure: Option<Failure>, chance: f64) {
        let node = &mut self.nodes[at];
        match failure {
            // The pauses stay as long as they are until it has answered a request.
            None => (node.out, node.cuts) = (None, 0),
            Some(why) => {
                let again = now + node.next_pause(chance);
                node.out = Some(Out { why, again, probing: false });
            }
        }
    }

    fn pass_over(&mut self, at: usize) {
        if at == self.current {
            self.current = (at + 1) % self.nodes.len();
        }
    }
}

impl Standing {
    fn next_pause(&mut self, chance: f64) -> Duration {
        self.probes = self.probes.saturating_add(1);
        scaled(backoff_ceiling(self.probes).min(LONGEST_PAUSE), chance)
    }
}

#[cfg(test)]
mod tests {
    use crate::core::error::Fault;

    use super::*;

    fn at(milliseconds: u64) -> BootTime {
        BootTime(milliseconds * 1_000_000)
    }

    fn refused() -> Failure {
        Failure::new(Fault::Unreachable, "refused")
    }

    #[test]
    fn the_node_that_works_is_kept_and_the_others_follow() {
        let mut nodes = Standings::new(3);
        assert_eq!(nodes.worth_asking(), [0, 1, 2]);
        nodes.works(1);
        assert_eq!(nodes.worth_asking(), [1, 2, 0]);
    }

    #[test]
    fn a_node_that_takes_no_connection_is_passed_over_until_it_is_healthy() {
        let mut nodes = Standings::new(2);
        nodes.is_out(0, at(0), refused(), 1.0);
        nodes.works(1);
        assert_eq!(nodes.worth_asking(), [1]);
        assert_eq!(nodes.due(at(249)), [0; 0]);
        assert_eq!(nodes.due(at(250)), [0]);
        assert_eq!(nodes.due(at(251)), [0; 0], "one asks at a time");
        nodes.probed(0, at(260), Some(refused()), 1.0);
        assert_eq!(nodes.due(at(759)), [0; 0], "the pause has doubled");
        assert_eq!(nodes.due(at(760)), [0]);
        nodes.probed(0, at(770), None, 1.0);
        assert_eq!(nodes.worth_asking(), [1, 0], "back, and the other one is still preferred");
    }

    #[test]
    fn pauses_grow_to_two_seconds_and_end_with_an_answer_to_a_request_alone() {
        let mut nodes = Standings::new(2);
        nodes.is_out(0, at(0), refused(), 1.0);
        for _ in 0..6 {
            nodes.probed(0, at(0), Some(refused()), 1.0);
        }
        assert_eq!(nodes.due(at(1_999)), [0; 0]);
        assert_eq!(nodes.due(at(2_000)), [0]);
        nodes.probed(0, at(2_000), None, 1.0);
        nodes.is_out(0, at(3_000), refused(), 1.0);
        assert_eq!(nodes.due(at(4_999)), [0; 0], "healthy, but it serves nobody");
        nodes.works(0);
        nodes.is_out(0, at(10_000), refused(), 1.0);
        assert_eq!(nodes.due(at(10_250)), [0]);
    }

    #[test]
    fn two_requests_in_a_row_without_an_answer_and_a_node_is_passed_over() {
        let mut nodes = Standings::new(2);
        nodes.cut(0, at(0), refused(), 1.0);
        assert_eq!(nodes.worth_asking(), [1, 0], "the last choice, but one");
        nodes.works(0);
        nodes.cut(0, at(1), refused(), 1.0);
        nodes.cut(0, at(2), refused(), 1.0);
        assert_eq!(nodes.worth_asking(), [1]);
    }

    #[test]
    fn requests_that_fail_together_make_one_pause() {
        let mut nodes = Standings::new(2);
        for _ in 0..16 {
            nodes.is_out(0, at(0), refused(), 1.0);
        }
        assert_eq!(nodes.due(at(250)), [0]);
    }

    #[test]
    fn when_none_is_worth_a_request_there_is_a_reason() {
        let mut nodes = Standings::new(2);
        assert_eq!(nodes.why_out(), None);
        nodes.is_out(0, at(0), refused(), 1.0);
        nodes.is_out(1, at(0), Failure::new(Fault::Sealed, "sealed"), 1.0);
        assert_eq!(nodes.worth_asking(), [0; 0]);
        assert_eq!(nodes.why_out().map(|why| why.fault), Some(Fault::Sealed));
    }
}
