//! From a profile to classic BPF: for each architecture a binary search over ranges of call numbers, so that a call
//! costs some ten instructions however long the profile is.

use std::collections::BTreeMap;

use super::{Action, Architecture, Condition, Instruction, Operator, Profile, SeccompError};

const LD_ABS: u16 = 0x20;
const AND: u16 = 0x54;
const JA: u16 = 0x05;
const JEQ: u16 = 0x15;
const JGT: u16 = 0x25;
const JGE: u16 = 0x35;
const RET: u16 = 0x06;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;

const MAX_INSTRUCTIONS: usize = 4096;

/// What is done with one call number: conditional rules in order, then this.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Treatment<'a> {
    rules: Vec<(&'a [Condition], Action)>,
    otherwise: Action,
}

pub(crate) fn compile(profile: &Profile) -> Result<Vec<Instruction>, SeccompError> {
    let mut program = vec![Instruction(LD_ABS, 0, 0, ARCH)];
    for arch in &profile.architectures {
        let mut body = vec![Instruction(LD_ABS, 0, 0, NUMBER)];
        body.extend(search(&segments(profile, *arch)));
        program.push(Instruction(JEQ, 1, 0, arch.audit()));
        program.push(Instruction(JA, 0, 0, body.len() as u32));
        program.extend(body);
    }
    program.push(ret(Action::KillProcess));
    if program.len() > MAX_INSTRUCTIONS {
        return Err(SeccompError::TooLong(program.len()));
    }
    Ok(program)
}

/// The number space cut into runs that are treated alike, each with its first number; the first run starts at 0.
fn segments<'a>(profile: &'a Profile, arch: Architecture) -> Vec<(u32, Treatment<'a>)> {
    let default = Treatment { rules: Vec::new(), otherwise: profile.default };
    let mut numbers: BTreeMap<u32, (Treatment<'a>, bool)> = BTreeMap::new();
    for rule in &profile.rules {
        for number in rule.names.iter().filter_map(|name| arch.number(name)) {
            let (treatment, settled) = numbers.entry(number).or_insert_with(|| (default.clone(), false));
            if *settled {
                continue;
            }
            if rule.conditions.is_empty() {
                treatment.otherwise = rule.action;
                *settled = true;
            } else {
                treatment.rules.push((&rule.conditions, rule.action));
            }
        }
    }
    let mut segments = vec![(0, default.clone())];
    let mut push = |start: u32, treatment: Treatment<'a>| match segments.last_mut() {
        Some((_, last)) if *last == treatment => {}
        Some((last_start, last)) if *last_start == start => *last = treatment,
        _ => segments.push((start, treatment)),
    };
    for (number, (treatment, _)) in numbers.clone() {
        push(number, treatment);
        if !numbers.contains_key(&(number + 1)) {
            push(number + 1, default.clone());
        }
    }
    segments
}

fn search(segments: &[(u32, Treatment)]) -> Vec<Instruction> {
    let [(_, only)] = segments else {
        let (lower, upper) = segments.split_at(segments.len() / 2);
        let (lower_code, upper_code) = (search(lower), search(upper));
        let mut code = Vec::with_capacity(lower_code.len() + upper_code.len() + 2);
        match u8::try_from(lower_code.len()) {
            Ok(skip) => code.push(Instruction(JGE, skip, 0, upper[0].0)),
            Err(_) => {
                code.push(Instruction(JGE, 0, 1, upper[0].0));
                code.push(Instruction(JA, 0, 0, lower_code.len() as u32));
            }
        }
        code.extend(lower_code);
        code.extend(upper_code);
        return code;
    };
    treat(only)
}

fn treat(treatment: &Treatment) -> Vec<Instruction> {
    let mut code = Vec::new();
    for (conditions, action) in &treatment.rules {
        // Built from the end, so that each test knows how far the next rule is.
        let mut rule = vec![ret(*action)];
        for condition in conditions.iter().rev() {
            let mut test = check(condition, rule.len());
            test.append(&mut rule);
            rule = test;
        }
        code.extend(rule);
    }
    code.push(ret(treatment.otherwise));
    code
}

fn ret(action: Action) -> Instruction {
    Instruction(RET, 0, 0, action.value())
}

/// Falls through to the `rest` instructions behind it when the condition holds, otherwise jumps over them.
fn check(condition: &Condition, rest: usize) -> Vec<Instruction> {
    let low = ARGS + 8 * u32::from(condition.index);
    let high = low + 4;
    let (value, second) = (condition.value, condition.second);
    let (value_low, value_high) = (value as u32, (value >> 32) as u32);
    // Where an instruction goes, relative to the length of the test: resolved below.
    const NEXT: i8 = 0;
    const PASS: i8 = 1;
    const FAIL: i8 = -1;
    let load = |offset| (LD_ABS, NEXT, NEXT, offset);
    let steps: Vec<(u16, i8, i8, u32)> = match condition.operator {
        Operator::Equal => {
            vec![load(high), (JEQ, NEXT, FAIL, value_high), load(low), (JEQ, PASS, FAIL, value_low)]
        }
        Operator::NotEqual => {
            vec![load(high), (JEQ, NEXT, PASS, value_high), load(low), (JEQ, FAIL, PASS, value_low)]
        }
        Operator::MaskedEqual => vec![
            load(high),
            (AND, NEXT, NEXT, value_high),
            (JEQ, NEXT, FAIL, (second >> 32) as u32),
            load(low),
            (AND, NEXT, NEXT, value_low),
            (JEQ, PASS, FAIL, second as u32),
        ],
        Operator::Greater | Operator::GreaterOrEqual => vec![
            load(high),
            (JGT, PASS, NEXT, value_high),
            (JEQ, NEXT, FAIL, value_high),
            load(low),
            (if condition.operator == Operator::Greater { JGT } else { JGE }, PASS, FAIL, value_low),
        ],
        Operator::Less | Operator::LessOrEqual => vec![
            load(high),
            (JGT, FAIL, NEXT, value_high),
            (JEQ, NEXT, PASS, value_high),
            load(low),
            (if condition.operator == Operator::Less { JGE } else { JGT }, FAIL, PASS, value_low),
        ],
    };
    let length = steps.len();
    let jump = |at: usize, target: i8| match target {
        PASS => (length - at - 1) as u8,
        // A rule has at most six conditions of six instructions: the distance fits.
        FAIL => (length - at - 1 + rest) as u8,
        _ => 0,
    };
    steps.iter().enumerate().map(|(at, (code, t, f, k))| Instruction(*code, jump(at, *t), jump(at, *f), *k)).collect()
}
