//! Which bank ESXi's loader boots next, and which one after a Shift+R.
//!
//! In scope: the rule, as a pure function over what each bank's boot.cfg says. Not in scope:
//! which disk the firmware boots from; the candidates must all be of that one disk. Source:
//! esx-boot safeboot/bootbank.c (`bank_scan`, `bank_auto_select`, `bank_kill`, `get_boot_bank`).

use std::fmt;

use super::boot_cfg::{BootCfg, BootState};

/// How many banks the loader considers: two, and a third in the middle of an upgrade.
const MAX_BANKS: usize = 3;

/// A partition with VMware's FAT marker.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Its number in the partition table.
    pub partition: u32,
    /// Its boot.cfg; `None` where there is none or the loader rejects it.
    pub cfg: Option<&'a BootCfg>,
}

/// What the loader makes of one candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It boots next.
    BootsNext {
        /// Its update counter.
        updated: u32,
        /// Why it comes before the others.
        because: Because,
    },
    /// It could boot, another bank comes first.
    Behind {
        /// Its update counter.
        updated: u32,
        /// The one of the bank that boots.
        best: u32,
    },
    /// It has no boot.cfg that the loader accepts.
    NoBootCfg,
    /// Three banks were found on partitions with lower numbers.
    NotConsidered,
    /// Its update counter is 0 or missing.
    NoUpdateNumber,
    /// It does not say which build it holds: nothing is installed there.
    NoBuild,
    /// Its `bootstate` excludes it.
    BadState(BootState),
    /// It was made for one Quick Boot and has served.
    QuickBoot,
    /// It was upgraded, and the loader cannot note that it tries it.
    StateNotRewritable,
}

/// Why the winner won.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Because {
    /// No other bank is eligible.
    OnlyOne,
    /// Its update counter is the highest.
    Highest,
    /// It shares the highest counter and has the lowest partition number.
    LowestPartition,
}

impl Verdict {
    /// Whether the loader could boot the bank.
    pub fn is_eligible(self) -> bool {
        matches!(self, Self::BootsNext { .. } | Self::Behind { .. })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BootsNext { updated, because } => {
                write!(f, "boots next: {because} {updated}")
            }
            Self::Behind { updated, best } if updated == best => {
                write!(
                    f,
                    "eligible, but a partition with a lower number has update number {best} too"
                )
            }
            Self::Behind { updated, best } => write!(
                f,
                "eligible, but its update number {updated} is lower than {best}, the one of the bank that boots"
            ),
            Self::NoBootCfg => {
                f.write_str("not eligible: it has no boot.cfg that ESXi's loader accepts")
            }
            Self::NotConsidered => write!(
                f,
                "not eligible: ESXi's loader considers {MAX_BANKS} banks, found on partitions before this one"
            ),
            Self::NoUpdateNumber => f.write_str("not eligible: its update number is 0 or missing"),
            Self::NoBuild => {
                f.write_str("not eligible: it names no build, so nothing is installed in it")
            }
            Self::BadState(state) => {
                write!(f, "not eligible: bootstate {state}, {}", meaning(*state))
            }
            Self::QuickBoot => f.write_str("not eligible: it was made for one Quick Boot only"),
            Self::StateNotRewritable => write!(
                f,
                "not eligible: bootstate {}, which ESXi's loader has to change but cannot, because it looks for the digit in the first 512 bytes of boot.cfg",
                BootState::Upgrading
            ),
        }
    }
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OnlyOne => "the only eligible bank, update number",
            Self::Highest => "highest update number",
            Self::LowestPartition => "lowest partition of those with the highest update number",
        })
    }
}

fn meaning(state: BootState) -> &'static str {
    match state {
        BootState::Dirty => "its first boot after an upgrade was never confirmed",
        BootState::Invalid => "as on a freshly installed disk's spare bank, or after a roll-back",
        BootState::Other(_) => "which ESXi's loader treats as damaged",
        BootState::Valid | BootState::Upgrading => "which is in order",
    }
}

/// The outcome for one disk. Indexes are those of the candidates given to [`elect`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Election {
    /// The bank that boots next; `None` where the loader finds none and stops.
    pub next: Option<usize>,
    /// One verdict per candidate, in their order.
    pub verdicts: Vec<Verdict>,
    /// The bank that boots when somebody presses Shift+R at the loader, which then gives the
    /// current one up permanently. `None` where that is refused: there is no other eligible bank, or
    /// the current one's state cannot be changed.
    pub after_shift_r: Option<usize>,
}

/// Elects among the banks of one disk, given in any order.
pub fn elect(candidates: &[Candidate<'_>]) -> Election {
    let mut verdicts: Vec<Verdict> = candidates
        .iter()
        .map(|candidate| examine(candidate.cfg))
        .collect();
    drop_those_beyond_the_third(candidates, &mut verdicts);
    let ranked = ranking(candidates, &verdicts);
    let next = ranked.first().copied();
    explain(&ranked, candidates, &mut verdicts);
    let current_can_be_given_up = next
        .and_then(|next| candidates[next].cfg)
        .is_some_and(|cfg| cfg.bootstate_rewritable);
    let after_shift_r = ranked.get(1).copied().filter(|_| current_can_be_given_up);
    Election {
        next,
        verdicts,
        after_shift_r,
    }
}

/// A bank by itself; eligible ones provisionally [`Verdict::Behind`].
fn examine(cfg: Option<&BootCfg>) -> Verdict {
    let Some(cfg) = cfg else {
        return Verdict::NoBootCfg;
    };
    let state = cfg.bootstate;
    if cfg.quickboot {
        return Verdict::QuickBoot;
    }
    match state {
        BootState::Dirty | BootState::Invalid | BootState::Other(_) => Verdict::BadState(state),
        _ if !cfg.has_build() => Verdict::NoBuild,
        _ if cfg.updated == 0 => Verdict::NoUpdateNumber,
        BootState::Upgrading if !cfg.bootstate_rewritable => Verdict::StateNotRewritable,
        BootState::Upgrading | BootState::Valid => Verdict::Behind {
            updated: cfg.updated,
            best: cfg.updated,
        },
    }
}

/// Whether the loader has to write into boot.cfg while it scans, and cannot. It then behaves as
/// if the partition held no bank, and goes on looking for three.
fn is_passed_over(cfg: &BootCfg) -> bool {
    let eligible = examine(Some(cfg)).is_eligible();
    let becomes = match cfg.bootstate {
        _ if cfg.quickboot => BootState::Invalid,
        BootState::Valid => BootState::Valid,
        BootState::Upgrading if eligible => BootState::Dirty,
        _ => BootState::Invalid,
    };
    becomes != cfg.bootstate && !cfg.bootstate_rewritable
}

/// The loader stops looking when it has found three banks, eligible or not.
fn drop_those_beyond_the_third(candidates: &[Candidate<'_>], verdicts: &mut [Verdict]) {
    let mut found: Vec<usize> = (0..candidates.len())
        .filter(|index| {
            candidates[*index]
                .cfg
                .is_some_and(|cfg| !is_passed_over(cfg))
        })
        .collect();
    found.sort_by_key(|index| candidates[*index].partition);
    let Some(third) = found.get(MAX_BANKS - 1) else {
        return;
    };
    let last = candidates[*third].partition;
    for (candidate, verdict) in candidates.iter().zip(verdicts) {
        if candidate.partition > last {
            *verdict = Verdict::NotConsidered;
        }
    }
}

/// The eligible banks, the one that boots first: highest update number, then lowest partition.
fn ranking(candidates: &[Candidate<'_>], verdicts: &[Verdict]) -> Vec<usize> {
    let mut ranked: Vec<usize> = (0..candidates.len())
        .filter(|index| verdicts[*index].is_eligible())
        .collect();
    ranked.sort_by_key(|index| {
        let updated = candidates[*index].cfg.map_or(0, |cfg| cfg.updated);
        (std::cmp::Reverse(updated), candidates[*index].partition)
    });
    ranked
}

/// Fills in who won, why, and against what the others lost.
fn explain(ranked: &[usize], candidates: &[Candidate<'_>], verdicts: &mut [Verdict]) {
    let updated = |index: usize| candidates[index].cfg.map_or(0, |cfg| cfg.updated);
    let [winner, losers @ ..] = ranked else {
        return;
    };
    let best = updated(*winner);
    for loser in losers {
        verdicts[*loser] = Verdict::Behind {
            updated: updated(*loser),
            best,
        };
    }
    let because = match losers.first() {
        None => Because::OnlyOne,
        Some(second) if updated(*second) == best => Because::LowestPartition,
        Some(_) => Because::Highest,
    };
    verdicts[*winner] = Verdict::BootsNext {
        updated: best,
        because,
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cfg(text: &str) -> Option<BootCfg> {
        BootCfg::parse(text.as_bytes()).ok()
    }

    /// Elects among banks given as (partition, boot.cfg).
    fn elect_texts(banks: &[(u32, &str)]) -> Election {
        let cfgs: Vec<_> = banks.iter().map(|(_, text)| cfg(text)).collect();
        let candidates: Vec<_> = banks
            .iter()
            .zip(&cfgs)
            .map(|((partition, _), cfg)| Candidate {
                partition: *partition,
                cfg: cfg.as_ref(),
            })
            .collect();
        elect(&candidates)
    }

    fn bank(updated: i64, bootstate: i64) -> String {
        format!("bootstate={bootstate}\nbuild=6.7.0-8169922\nupdated={updated}\n")
    }

    #[test]
    fn a_fresh_installs_spare_bank_does_not_win() {
        let election = elect_texts(&[(5, &bank(1, 0)), (6, "bootstate=3\nbuild=\nupdated=2")]);
        assert_eq!((election.next, election.after_shift_r), (Some(0), None));
        assert_eq!(
            election.verdicts[0].to_string(),
            "boots next: the only eligible bank, update number 1"
        );
        assert_eq!(
            election.verdicts[1].to_string(),
            "not eligible: bootstate 3 (INVALID), as on a freshly installed disk's spare bank, or after a roll-back"
        );
    }

    #[test]
    fn the_highest_update_number_wins_and_ties_go_to_the_lower_partition() {
        let election = elect_texts(&[(5, &bank(6, 0)), (6, &bank(7, 0))]);
        assert_eq!((election.next, election.after_shift_r), (Some(1), Some(0)));
        assert_eq!(
            election.verdicts[1].to_string(),
            "boots next: highest update number 7"
        );
        assert_eq!(
            election.verdicts[0],
            Verdict::Behind {
                updated: 6,
                best: 7
            }
        );
        // In any order of the candidates.
        let election = elect_texts(&[(6, &bank(7, 0)), (5, &bank(7, 0))]);
        assert_eq!((election.next, election.after_shift_r), (Some(1), Some(0)));
        assert!(election.verdicts[0].to_string().contains("lower number"));
        // The comparison is unsigned.
        assert_eq!(
            elect_texts(&[(5, &bank(-1, 0)), (6, &bank(7, 0))]).next,
            Some(0)
        );
    }

    #[test]
    fn each_reason_against_a_bank() {
        let far = format!("title={}\nbuild=b\nupdated=9\nbootstate=1", "x".repeat(600));
        let cases = [
            (
                "bootstate=x\nbuild=b\nupdated=9".to_owned(),
                Verdict::NoBootCfg,
            ),
            (bank(9, 2), Verdict::BadState(BootState::Dirty)),
            (bank(9, 3), Verdict::BadState(BootState::Invalid)),
            (bank(9, 7), Verdict::BadState(BootState::Other(7))),
            (bank(0, 0), Verdict::NoUpdateNumber),
            ("bootstate=0\nbuild=b".to_owned(), Verdict::NoUpdateNumber),
            ("bootstate=0\nupdated=9".to_owned(), Verdict::NoBuild),
            (bank(9, 0) + "quickboot=1", Verdict::QuickBoot),
            (far, Verdict::StateNotRewritable),
        ];
        for (text, verdict) in cases {
            let election = elect_texts(&[(5, &text), (6, &bank(1, 0))]);
            assert_eq!(election.next, Some(1), "{text}");
            assert_eq!(election.verdicts[0], verdict, "{text}");
            assert_eq!(election.after_shift_r, None);
            assert!(verdict.to_string().starts_with("not eligible: "));
        }
    }

    #[test]
    fn an_upgraded_bank_is_tried_and_can_be_rolled_back() {
        let election = elect_texts(&[(5, &bank(7, 0)), (6, &bank(8, 1))]);
        assert_eq!((election.next, election.after_shift_r), (Some(1), Some(0)));
    }

    #[test]
    fn a_roll_back_needs_a_state_that_can_be_changed() {
        // No bootstate line counts as 0, but there is no digit to change.
        let election = elect_texts(&[(5, &bank(1, 0)), (6, "build=b\nupdated=2")]);
        assert_eq!((election.next, election.after_shift_r), (Some(1), None));
    }

    #[test]
    fn three_banks_are_considered() {
        let banks: Vec<String> = [1, 2, 3, 9].into_iter().map(|n| bank(n, 0)).collect();
        let with = |second: &str| {
            elect_texts(&[(5, &banks[0]), (6, second), (7, &banks[2]), (8, &banks[3])])
        };
        let election = with(&banks[1]);
        assert_eq!((election.next, election.after_shift_r), (Some(2), Some(1)));
        assert_eq!(election.verdicts[3], Verdict::NotConsidered);
        // One that is not eligible counts, one without a boot.cfg does not, nor does one that
        // the loader would have to change and cannot.
        assert_eq!(with(&bank(2, 3)).next, Some(2));
        assert_eq!(with("updated=x").next, Some(3));
        assert_eq!(with(&bank(2, 7)).next, Some(3));
    }

    #[test]
    fn without_an_eligible_bank_nothing_boots() {
        let none = Election {
            next: None,
            verdicts: vec![],
            after_shift_r: None,
        };
        assert_eq!(elect(&[]), none);
        let election = elect_texts(&[(5, &bank(1, 3)), (6, &bank(2, 2))]);
        assert_eq!((election.next, election.after_shift_r), (None, None));
    }

    proptest! {
        #[test]
        fn the_winner_is_eligible_and_nobody_eligible_beats_it(
            banks in proptest::collection::vec((0_u32..20, -1_i64..5, -1_i64..5, any::<bool>()), 0..6)
        ) {
            let texts: Vec<_> = banks
                .iter()
                .map(|(partition, updated, state, quick)| {
                    (*partition, bank(*updated, *state) + if *quick { "quickboot=1" } else { "" })
                })
                .collect();
            let borrowed: Vec<_> = texts.iter().map(|(n, text)| (*n, text.as_str())).collect();
            let election = elect_texts(&borrowed);
            prop_assert_eq!(election.verdicts.len(), banks.len());
            let eligible = election.verdicts.iter().filter(|verdict| verdict.is_eligible()).count();
            prop_assert_eq!(election.next.is_some(), eligible > 0);
            prop_assert_eq!(election.after_shift_r.is_some(), eligible > 1);
            if let Some(next) = election.next {
                let unsigned = |number: i64| u32::try_from(number).unwrap_or(u32::MAX);
                let best = unsigned(banks[next].1);
                prop_assert!(best > 0 && !banks[next].3 && (0..=1).contains(&banks[next].2));
                for (verdict, bank) in election.verdicts.iter().zip(&banks) {
                    prop_assert!(!verdict.is_eligible() || unsigned(bank.1) <= best);
                }
            }
        }
    }
}
