//! The calls of the system that are left: those that read, compute and answer, and where a file is
//! written those that do. None starts a program, makes a socket, looks into another process or maps
//! memory that can be executed. All others fail with `EPERM`.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Op,
    SeccompCondition as Condition, SeccompFilter, SeccompRule as Rule, TargetArch,
};

use super::super::Needs;

/// Harmless whatever their arguments are.
const FREE: &[c_long] = &[
    // memory
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // threads
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_membarrier,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    // signals
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    // time and chance
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    // files that are open
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_fadvise64,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_lseek,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    // names
    libc::SYS_faccessat,
    libc::SYS_getcwd,
    libc::SYS_newfstatat,
    libc::SYS_readlinkat,
    libc::SYS_statx,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
];

/// What it takes to write a file, and to make one.
const WRITING: &[c_long] = &[
    libc::SYS_copy_file_range,
    libc::SYS_fallocate,
    libc::SYS_fchmod,
    libc::SYS_ftruncate,
    libc::SYS_linkat,
    libc::SYS_openat,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
    #[cfg(not(target_arch = "riscv64"))]
    libc::SYS_renameat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
];

/// Calls whose arguments lie in memory, where a filter cannot see them. The C library and this
/// program do the same by older calls where there are none, so these are.
const UNSEEN: &[c_long] = &[libc::SYS_clone3, libc::SYS_openat2];

/// Sharing blocks, and asking who shares them (`linux/fs.h`).
const FICLONE: u64 = 0x4004_9409;
const FICLONERANGE: u64 = 0x4020_940d;
const FS_IOC_FIEMAP: u64 = 0xc020_660b;

/// Leaves nothing but these calls to this thread, and to those that it starts.
pub(super) fn restrict(needs: &Needs) -> Result<(), String> {
    let words = |error: BackendError| error.to_string();
    let programs = [unseen().map_err(words)?, allowed(needs).map_err(words)?];
    for program in &programs {
        seccompiler::apply_filter_all_threads(program).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// One argument of a call, compared.
fn argument(index: u8, op: Op, value: u64) -> Result<Rule, BackendError> {
    Rule::new(vec![Condition::new(index, Width::Dword, op, value)?])
}

fn unseen() -> Result<BpfProgram, BackendError> {
    let rules = UNSEEN.iter().map(|&call| (call, Vec::new())).collect();
    let absent = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    filter(rules, SeccompAction::Allow, absent)
}

fn allowed(needs: &Needs) -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<c_long, Vec<Rule>> = BTreeMap::new();
    let any = FREE.iter().chain(UNSEEN);
    rules.extend(any.map(|&call| (call, Vec::new())));
    let bits = |flags: libc::c_int| u64::from(flags.unsigned_abs());
    let none_of = |index, flags| argument(index, Op::MaskedEq(bits(flags)), 0);
    let equals = |index, value| argument(index, Op::Eq, value);
    // memory is never executed
    rules.insert(libc::SYS_mmap, vec![none_of(2, libc::PROT_EXEC)?]);
    rules.insert(libc::SYS_mprotect, vec![none_of(2, libc::PROT_EXEC)?]);
    // a thread, no process
    let thread = bits(libc::CLONE_THREAD | libc::CLONE_VM);
    rules.insert(libc::SYS_clone, vec![argument(0, Op::MaskedEq(thread), thread)?]);
    rules.insert(libc::SYS_prctl, vec![equals(0, bits(libc::PR_SET_NAME))?]);
    // signals go to this process only
    rules.insert(libc::SYS_tgkill, vec![equals(0, std::process::id().into())?]);
    // limits are asked for, not set
    rules.insert(libc::SYS_prlimit64, vec![argument_wide(2, 0)?]);
    let writes = !needs.written.is_empty() || !needs.created_in.is_empty();
    // C libraries give these numbers different types; the kernel looks at 32 bits
    let number = |request| u64::from(request as u32);
    let mut requests = vec![number(libc::TCGETS), number(libc::TIOCGWINSZ), FS_IOC_FIEMAP];
    if writes {
        rules.extend(WRITING.iter().map(|&call| (call, Vec::new())));
        requests.extend([FICLONE, FICLONERANGE]);
    } else {
        if needs.spills {
            // of files only that one is open for writing
            rules.insert(libc::SYS_pwrite64, Vec::new());
            rules.insert(libc::SYS_ftruncate, Vec::new());
        }
        let writing = libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC;
        rules.insert(libc::SYS_openat, vec![none_of(2, writing)?]);
        #[cfg(target_arch = "x86_64")]
        rules.insert(libc::SYS_open, vec![none_of(1, writing)?]);
    }
    let requests: Result<_, _> = requests.into_iter().map(|request| equals(1, request)).collect();
    rules.insert(libc::SYS_ioctl, requests?);
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    filter(rules, refused, SeccompAction::Allow)
}

/// An argument that is a pointer.
fn argument_wide(index: u8, value: u64) -> Result<Rule, BackendError> {
    Rule::new(vec![Condition::new(index, Width::Qword, Op::Eq, value)?])
}

fn filter(
    rules: BTreeMap<c_long, Vec<Rule>>,
    otherwise: SeccompAction,
    matching: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    let processor = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, otherwise, matching, processor)?.try_into()
}
