//! Seccomp: the system calls that are left (seccomp(2)).
//!
//! How the list was made: `strace -f` of the daemon in all tests that mount, from the moment on that its device
//! was open; the calls that glibc, tokio, ring and the standard library make where this kernel or this machine
//! takes another way (older names, fallbacks, modules of the name service); then whatever can reach beyond the
//! process was narrowed by its arguments. What is not in the list fails with `EPERM`. What no part of leasefs or of
//! its libraries has any use for, and an intruder has, ends the process at once.
//!
//! Three filters are in force together, and the kernel does what the strictest says.

use std::collections::{BTreeMap, BTreeSet};

use libc::c_long;
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use crate::config::plan::Protection;
use crate::sandbox::SandboxError;
use crate::sandbox::protections::{Protections, State};

/// Reading, writing and waiting: the FUSE device, sockets, files.
const TRANSFER: &[c_long] = &[
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fcntl,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_signalfd4,
    libc::SYS_pipe2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
];

/// Credentials, the resolver's configuration, `/proc/T/status`, locks that are stored, the control socket. Which
/// files, is Landlock's business.
const FILES: &[c_long] = &[
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    SYS_FACCESSAT2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_ftruncate,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fadvise64,
    libc::SYS_umask,
];

/// The allocator, stacks of threads, pages with secrets. `mmap` and `mprotect` are narrowed.
const MEMORY: &[c_long] = &[
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_msync,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_munlock,
    libc::SYS_membarrier,
];

/// Threads, their locks and signals, time, the end. `clone`, `tgkill` and `prctl` are narrowed.
const THREADS: &[c_long] = &[
    libc::SYS_clone3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    SYS_FUTEX_WAKE,
    SYS_FUTEX_WAIT,
    SYS_FUTEX_REQUEUE,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_rseq,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
];

/// What a process may know of itself and of the system.
const FACTS: &[c_long] = &[
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getresuid,
    libc::SYS_getresgid,
    libc::SYS_getgroups,
    libc::SYS_capget,
    libc::SYS_getrusage,
    libc::SYS_getrandom,
    libc::SYS_sysinfo,
    libc::SYS_uname,
];

/// Vault, name servers, the control socket, systemd. `socket` and what sends is narrowed; which ports, is
/// Landlock's business.
const NETWORK: &[c_long] = &[
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
];

/// Older names of the above, which newer architectures don't have.
#[cfg(target_arch = "x86_64")]
const OLDER: &[c_long] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_mkdir,
    libc::SYS_unlink,
    libc::SYS_rmdir,
    libc::SYS_rename,
    libc::SYS_chmod,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd,
    libc::SYS_pipe,
    libc::SYS_dup2,
    libc::SYS_time,
    libc::SYS_arch_prctl,
    libc::SYS_getrlimit,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[c_long] = &[];

/// No part of leasefs or its libraries has any use for these, once its mount is made.
const FATAL: &[c_long] = &[
    // Other programs, other processes' memory and descriptors.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Mounts and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_open_by_handle_at,
    // The kernel itself.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_kexec_load,
    SYS_KEXEC_FILE_LOAD,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // The system's time and names.
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    // Filters that lie past these.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_personality,
];

/// Calls of one architecture that are as bad.
#[cfg(target_arch = "x86_64")]
const FATAL_HERE: &[c_long] = &[libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt];
#[cfg(not(target_arch = "x86_64"))]
const FATAL_HERE: &[c_long] = &[];

/// Calls whose arguments lie in memory, where no filter can look, and whose callers know an older way.
const NOT_THERE: &[c_long] = &[libc::SYS_clone3];

// Numbers that the `libc` crate has not for every architecture; since Linux 5.x all have the same ones.
const SYS_FACCESSAT2: c_long = 439;
const SYS_FUTEX_WAKE: c_long = 454;
const SYS_FUTEX_WAIT: c_long = 455;
const SYS_FUTEX_REQUEUE: c_long = 456;
#[cfg(target_arch = "x86_64")]
const SYS_KEXEC_FILE_LOAD: c_long = 320;
#[cfg(not(target_arch = "x86_64"))]
const SYS_KEXEC_FILE_LOAD: c_long = 294;

/// The architecture that this is built for.
const HERE: TargetArch = if cfg!(target_arch = "aarch64") { TargetArch::aarch64 } else { TargetArch::x86_64 };

/// Leaves the thread no other system calls.
pub(super) fn filter(off: &BTreeSet<Protection>, protections: &mut Protections) -> Result<(), SandboxError> {
    let name = Protection::Seccomp.name();
    if off.contains(&Protection::Seccomp) {
        protections.note_off(Protection::Seccomp);
        return Ok(());
    }
    if !cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
        let reason = format!("there is no list of system calls for {}", std::env::consts::ARCH);
        protections.note(name, State::Missing { reason });
        return Ok(());
    }
    let programs = programs(std::process::id()).map_err(|error| trouble(&error))?;
    for program in &programs {
        match seccompiler::apply_filter(program) {
            Ok(()) => {}
            Err(Error::Seccomp(error))
                if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) =>
            {
                let reason = "this kernel was built without it (CONFIG_SECCOMP_FILTER)".to_owned();
                protections.note(name, State::Missing { reason });
                return Ok(());
            }
            Err(error) => return Err(trouble(&error)),
        }
    }
    protections.note(name, State::On);
    Ok(())
}

fn trouble(error: &Error) -> SandboxError {
    SandboxError::Seccomp { trouble: error.to_string() }
}

/// The filters, in the order in which they can be installed: after the last one no other can be.
fn programs(pid: u32) -> Result<[BpfProgram; 3], Error> {
    let plain = |calls: &[&[c_long]]| -> BTreeMap<i64, Vec<SeccompRule>> {
        calls.iter().flat_map(|calls| calls.iter()).map(|call| (number(*call), Vec::new())).collect()
    };
    let mut allowed = plain(&[TRANSFER, FILES, MEMORY, THREADS, FACTS, NETWORK, OLDER]);
    for (call, rules) in narrowed(pid)? {
        allowed.insert(number(call), rules);
    }
    let fatal = plain(&[FATAL, FATAL_HERE]);
    let not_there = plain(&[NOT_THERE]);
    let program = |rules, otherwise, then| -> Result<BpfProgram, Error> {
        Ok(SeccompFilter::new(rules, otherwise, then, HERE)?.try_into()?)
    };
    let (eperm, enosys) = (libc::EPERM.unsigned_abs(), libc::ENOSYS.unsigned_abs());
    Ok([
        program(fatal, SeccompAction::Allow, SeccompAction::KillProcess)?,
        program(not_there, SeccompAction::Allow, SeccompAction::Errno(enosys))?,
        program(allowed, SeccompAction::Errno(eperm), SeccompAction::Allow)?,
    ])
}

/// The numbers are 32 bits wide on some architectures.
#[allow(clippy::useless_conversion, reason = "a c_long is an i64 on most architectures")]
fn number(call: c_long) -> i64 {
    i64::from(call)
}

/// Calls that are left only with some arguments. Of the rules of a call one has to fit, of a rule's conditions
/// all.
fn narrowed(pid: u32) -> Result<Vec<(c_long, Vec<SeccompRule>)>, Error> {
    let rule = |conditions: Vec<SeccompCondition>| SeccompRule::new(conditions);
    let any = |argument: u8, values: &[i32]| -> Result<Vec<SeccompRule>, Error> {
        values.iter().map(|value| Ok(rule(vec![is(argument, *value)?])?)).collect()
    };
    Ok(vec![
        // Memory that can be written to is never run; only files are, for modules of the name service.
        (
            libc::SYS_mmap,
            vec![
                rule(vec![lacks(2, libc::PROT_EXEC)?])?,
                rule(vec![lacks(2, libc::PROT_WRITE)?, lacks(3, libc::MAP_ANONYMOUS)?])?,
            ],
        ),
        (libc::SYS_mprotect, vec![rule(vec![lacks(2, libc::PROT_EXEC)?])?]),
        // Threads alone: no processes, no namespaces.
        (libc::SYS_clone, vec![rule(vec![has(0, THREAD)?, lacks(0, NAMESPACES)?])?]),
        // Signals to this process alone: abort(3).
        (libc::SYS_tgkill, vec![rule(vec![is(0, i32::try_from(pid).unwrap_or(i32::MAX))?])?]),
        (
            libc::SYS_prctl,
            any(0, &[libc::PR_SET_NAME, libc::PR_GET_NAME, libc::PR_GET_DUMPABLE, PR_SET_VMA])?,
        ),
        // Limits are asked for and not changed: getrlimit(2) of this process.
        (libc::SYS_prlimit64, vec![rule(vec![is(0, 0)?, null(2)?])?]),
        (libc::SYS_ioctl, any(1, &IOCTLS)?),
        (libc::SYS_socket, sockets()?),
        (libc::SYS_socketpair, any(0, &[libc::AF_UNIX])?),
        // Fast open connects as well, and not every kernel's Landlock looks at it.
        (libc::SYS_sendto, vec![rule(vec![lacks(3, libc::MSG_FASTOPEN)?])?]),
        (libc::SYS_sendmsg, vec![rule(vec![lacks(2, libc::MSG_FASTOPEN)?])?]),
        (libc::SYS_sendmmsg, vec![rule(vec![lacks(3, libc::MSG_FASTOPEN)?])?]),
    ])
}

const THREAD: i32 = libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD;
const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;

/// Gives anonymous memory a name, for people (prctl(2)).
const PR_SET_VMA: i32 = 0x5356_4d41;

/// Non-blocking and close-on-exec descriptors, how much can be read, whether it is a terminal, interfaces of
/// link-local addresses.
const IOCTLS: [i32; 7] = [
    libc::FIONBIO as i32,
    libc::FIOCLEX as i32,
    libc::FIONREAD as i32,
    libc::TCGETS as i32,
    TCGETS2 as i32,
    SIOCGIFINDEX,
    SIOCGIFNAME,
];

/// As newer C libraries ask whether it is a terminal.
const TCGETS2: u32 = 0x802c_542a;
const SIOCGIFNAME: i32 = 0x8910;
const SIOCGIFINDEX: i32 = 0x8933;

/// Unix sockets, TCP and UDP, and routes as getaddrinfo(3) asks for them. No MPTCP, at whose
/// connections Landlock does not look, and nothing raw.
fn sockets() -> Result<Vec<SeccompRule>, Error> {
    let mut rules = vec![
        SeccompRule::new(vec![is(0, libc::AF_UNIX)?])?,
        SeccompRule::new(vec![is(0, libc::AF_NETLINK)?, is(2, libc::NETLINK_ROUTE)?])?,
    ];
    for family in [libc::AF_INET, libc::AF_INET6] {
        for (kind, protocol) in
            [(libc::SOCK_STREAM, libc::IPPROTO_TCP), (libc::SOCK_DGRAM, libc::IPPROTO_UDP)]
        {
            for protocol in [0, protocol] {
                let is_kind = masked(1, SOCK_TYPE_MASK, kind)?;
                rules.push(SeccompRule::new(vec![is(0, family)?, is_kind, is(2, protocol)?])?);
            }
        }
    }
    Ok(rules)
}

/// The bits of a socket's type that are not flags (socket(2)).
const SOCK_TYPE_MASK: i32 = 0xf;

fn is(argument: u8, value: i32) -> Result<SeccompCondition, Error> {
    condition(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, bits(value))
}

fn null(argument: u8) -> Result<SeccompCondition, Error> {
    condition(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)
}

/// All of these bits.
fn has(argument: u8, mask: i32) -> Result<SeccompCondition, Error> {
    masked(argument, mask, mask)
}

/// None of these bits.
fn lacks(argument: u8, mask: i32) -> Result<SeccompCondition, Error> {
    masked(argument, mask, 0)
}

fn masked(argument: u8, mask: i32, value: i32) -> Result<SeccompCondition, Error> {
    condition(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(bits(mask)), bits(value))
}

fn condition(
    argument: u8,
    width: SeccompCmpArgLen,
    compare: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, Error> {
    Ok(SeccompCondition::new(argument, width, compare, value)?)
}

fn bits(value: i32) -> u64 {
    u64::from(value.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_fatal_is_not_allowed_as_well() {
        let allowed: BTreeSet<c_long> = [TRANSFER, FILES, MEMORY, THREADS, FACTS, NETWORK, OLDER]
            .into_iter()
            .flatten()
            .copied()
            .chain(narrowed(1).unwrap().into_iter().map(|(call, _)| call))
            .collect();
        let both: Vec<&c_long> =
            FATAL.iter().chain(FATAL_HERE).filter(|call| allowed.contains(call)).collect();
        assert!(both.is_empty(), "{both:?}");
        // Or the last filter could be followed by a weaker one.
        assert!(!allowed.contains(&libc::SYS_seccomp));
    }

    #[test]
    fn the_filters_fit_into_the_kernel() {
        for program in programs(std::process::id()).unwrap() {
            // BPF_MAXINSNS, linux/bpf_common.h.
            assert!(program.len() <= 4096, "{}", program.len());
        }
    }
}
