//! Tests of the runtime in a virtual machine whose kernel has cgroups of version 2 only. QEMU emulates it, so no KVM is
//! needed; the kernel is Debian's, unpacked and not installed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::stage::command;

/// What is needed beside the packages of the other tests.
pub(crate) const PACKAGES: [(&str, &str); 1] = [("qemu-system-x86", "/usr/bin/qemu-system-x86_64")];

/// A package that depends on the newest kernel for virtual machines.
const KERNEL: &str = "linux-image-cloud-amd64";

/// Which tests are run: what a container may use, how it ends, what joins it, and that nothing stays behind.
const TESTS: [&str; 4] = ["containers::", "lifecycle::", "isolation::", "exec::"];

/// How many seconds the guest may take; emulated, it needs about a minute.
const PATIENCE: &str = "600";

/// The last three spare an emulated machine the calibration of its clocks.
const COMMAND_LINE: &str = "console=ttyS0 reboot=t panic=-1 quiet no_timer_check lpj=4000000 tsc_early_khz=2000000";

const DONE: &str = "guest: the tests ended with ";

/// In the first root, which nobody can pivot away from.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox mount -t tmpfs tmpfs /new
for place in /*; do [ $place = /new ] || /bin/busybox cp -a $place /new/; done
/bin/busybox mkdir -p /new/dev /new/proc /new/root /new/run /new/sys /new/tmp /new/var/lib
exec /bin/busybox switch_root /new /bin/sh /tests/run
";

/// The repository, from wherever the chore is called.
fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here)
}

/// Builds the tests, boots a guest with them and says how they ended.
pub(crate) fn run() -> Result<()> {
    let folder = root().join("target/guest");
    let root = folder.join("root");
    if root.exists() {
        std::fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))?;
    }
    for name in ["bin", "etc", "new", "tests"] {
        std::fs::create_dir_all(root.join(name))?;
    }
    let kernel = kernel(&folder)?;
    let programs = Programs::build()?;
    std::fs::copy(&programs.tests, root.join("tests/runtime"))?;
    libraries(&programs.tests, &root)?;
    for program in &programs.others {
        // The tests look for them where they were built.
        place(program, &root)?;
    }
    busybox(&root)?;
    std::fs::copy(module(&kernel, "overlay.ko")?, root.join("tests/overlay.ko"))?;
    script(&root.join("init"), INIT)?;
    script(&root.join("tests/run"), &second())?;
    let image = folder.join("initramfs");
    let pack = format!("cd {} && find . | busybox cpio -o -H newc 2>/dev/null > ../initramfs", root.display());
    command("sh", &["-c", &pack])?;
    boot(&kernel.join("vmlinuz"), &image)
}

/// In the second root: what a system has, then the tests.
fn second() -> String {
    let filters = TESTS.join(" ");
    format!(
        "mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
insmod /tests/overlay.ko
ip link set lo up
export PATH=/bin HOME=/root TMPDIR=/tmp
echo \"guest: cgroup controllers: $(cat /sys/fs/cgroup/cgroup.controllers)\"
/tests/runtime --test-threads=1 {filters}
echo \"{DONE}$?\"
poweroff -f
"
    )
}

fn script(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?)
}

fn text_of(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        bail!("{program} {} ended with {}", arguments.join(" "), output.status);
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// A folder with the kernel `vmlinuz` and its modules, unpacked from the newest package.
fn kernel(folder: &Path) -> Result<PathBuf> {
    let depends = text_of("apt-cache", &["depends", KERNEL])?;
    let package = depends.lines().find_map(|l| l.trim().strip_prefix("Depends: ")).context("no kernel package is known")?.to_string();
    let unpacked = folder.join(&package);
    if !unpacked.join("vmlinuz").exists() {
        std::fs::create_dir_all(&unpacked)?;
        let fetch = format!(
            "cd {} && apt-get download --quiet {package} && dpkg -x {package}_*.deb . && mv boot/vmlinuz-* vmlinuz",
            unpacked.display()
        );
        command("sh", &["-c", &fetch])?;
    }
    Ok(unpacked)
}

/// The file of a module below the kernel's folder.
fn module(kernel: &Path, name: &str) -> Result<PathBuf> {
    let found = text_of("find", &[&kernel.to_string_lossy(), "-name", name])?;
    found.lines().next().map(PathBuf::from).with_context(|| format!("the kernel has no module {name}"))
}

/// The runtime's tests, built, and what they start.
struct Programs {
    tests: PathBuf,
    others: Vec<PathBuf>,
}

impl Programs {
    fn build() -> Result<Self> {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
        let arguments = ["test", "--package", "fram-runtime", "--test", "runtime", "--no-run", "--message-format=json"];
        let (mut tests, mut others) = (None, Vec::new());
        for message in cargo_metadata::Message::parse_stream(text_of(&cargo, &arguments)?.as_bytes()) {
            let cargo_metadata::Message::CompilerArtifact(artifact) = message? else { continue };
            match artifact.executable {
                Some(program) if artifact.target.is_test() => tests = Some(program.into()),
                Some(program) => others.push(program.into()),
                None => {}
            }
        }
        Ok(Self { tests: tests.context("cargo built no test of the runtime")?, others })
    }
}

/// Copies a file to the same place below another root.
fn place(file: &Path, root: &Path) -> Result<()> {
    let target = root.join(file.strip_prefix("/").unwrap_or(file));
    std::fs::create_dir_all(target.parent().unwrap_or(root))?;
    std::fs::copy(file, &target).with_context(|| format!("cannot copy {}", file.display()))?;
    Ok(())
}

/// The libraries that a program names, at their own places.
fn libraries(program: &Path, root: &Path) -> Result<()> {
    for line in text_of("ldd", &[&program.to_string_lossy()])?.lines() {
        let Some(path) = line.split_whitespace().find(|w| w.starts_with('/')) else { continue };
        place(Path::new(path), root)?;
    }
    Ok(())
}

fn busybox(root: &Path) -> Result<()> {
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).context("busybox-static is not installed")?;
    for applet in text_of("/bin/busybox", &["--list"])?.lines().filter(|a| *a != "busybox") {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet))?;
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    Ok(std::fs::write(root.join("etc/group"), "root:x:0:\n")?)
}

/// Boots the guest, passes on what it says, and takes the exit code of the tests from it.
fn boot(kernel: &Path, image: &Path) -> Result<()> {
    let log = image.with_extension("log");
    let ended = Command::new("timeout")
        .args([PATIENCE, "qemu-system-x86_64"])
        .args(["-M", "microvm", "-accel", "tcg", "-nodefaults", "-no-user-config", "-nographic", "-no-reboot"])
        .args(["-smp", "2", "-m", "2048", "-serial", "stdio", "-append", COMMAND_LINE])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(image)
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&log)?)
        .status()
        .context("cannot start qemu-system-x86_64")?;
    let said = String::from_utf8_lossy(&std::fs::read(&log)?).replace('\r', "");
    print!("{said}");
    match said.lines().find_map(|l| l.strip_prefix(DONE)) {
        Some("0") => Ok(()),
        Some(code) => bail!("the tests in the guest ended with {code}"),
        None => bail!("the guest ended before its tests did ({ended})"),
    }
}
