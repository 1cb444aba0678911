//! Options of the commands that nitro-cli does not have.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Compute an image's PCRs without running it
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  enclave-cli measure --eif-path hello.eif")]
pub(crate) struct Measure {
    /// The image
    #[arg(long, value_name = "FILE")]
    pub(crate) eif_path: PathBuf,
}

/// Get, verify and show attestation documents
#[derive(Debug, Args)]
pub(crate) struct Attestation {
    /// What to do.
    #[command(subcommand)]
    pub(crate) action: AttestationAction,
}

/// The attestation commands.
#[derive(Debug, Subcommand)]
pub(crate) enum AttestationAction {
    Get(AttestationGet),
    Verify(Box<AttestationVerify>),
    Show(AttestationShow),
}

/// Ask a running enclave's agent for a fresh document
///
/// The nonce is 32 random bytes unless given, and the document that comes back must hold it. The document is not verified otherwise:
/// that is `attestation verify`, by whoever relies on it.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  enclave-cli attestation get --enclave-id ID --output hello.doc
  enclave-cli attestation get --enclave-id ID --nonce 00112233445566778899aabb

Without --output, JSON with EnclaveID, Nonce (hex) and Document (base64) goes to
stdout.")]
pub(crate) struct AttestationGet {
    /// The enclave, by id or name
    #[arg(long, value_name = "ID")]
    pub(crate) enclave_id: String,

    /// At most 512 bytes
    #[arg(long, value_name = "HEX")]
    pub(crate) nonce: Option<String>,

    /// Write the document, binary, to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// The document as it is, on stdout; how a command on the host asks the machine.
    #[arg(long, hide = true, conflicts_with = "output")]
    pub(crate) raw: bool,
}

/// Decide whether a document is what it should be
///
/// Exit 0: valid. Exit 1: refused, with one reason code. The answer also says which of nonce, age and identity was not checked.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  enclave-cli attestation verify --document hello.doc --root local \\
    --eif hello.eif
  enclave-cli attestation verify --document aws.doc --root aws \\
    --pcr 0=HEX --pcr 8=HEX --nonce HEX
  enclave-cli attestation verify --document old.doc --root aws \\
    --any-image --time document --json

--root local is this user's own authority: a software root, which whoever has
root on this host can forge.")]
#[command(group(clap::ArgGroup::new("image").required(true).args(["pcr", "eif", "any_image"])))]
pub(crate) struct AttestationVerify {
    /// The document, binary or base64
    #[arg(long, value_name = "FILE")]
    pub(crate) document: PathBuf,

    /// Whose root the chain must end in: `aws`, `local`, or a certificate in PEM or DER
    #[arg(long, value_name = "FILE|local|aws")]
    pub(crate) root: String,

    /// The register must have this value (may be given several times)
    #[arg(long, value_name = "N=HEX")]
    pub(crate) pcr: Vec<String>,

    /// PCR0, 1 and 2 must be those of this image, and PCR8 where it is signed
    #[arg(long, value_name = "FILE")]
    pub(crate) eif: Option<PathBuf>,

    /// Take any image: say nothing about who runs there
    #[arg(long)]
    pub(crate) any_image: bool,

    /// The time at which the certificates must be valid
    #[arg(long, value_name = "now|document|RFC3339", default_value = "now")]
    pub(crate) time: String,

    /// The nonce that must be in it
    #[arg(long, value_name = "HEX")]
    pub(crate) nonce: Option<String>,

    /// Take a document of an enclave in debug mode, whose PCR0-2 are zero
    #[arg(long)]
    pub(crate) allow_debug: bool,

    /// The answer as JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,
}

/// Show every field of a document, without judging it
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  enclave-cli attestation show --document hello.doc --json")]
pub(crate) struct AttestationShow {
    /// The document, binary or base64
    #[arg(long, value_name = "FILE")]
    pub(crate) document: PathBuf,

    /// JSON instead of lines
    #[arg(long)]
    pub(crate) json: bool,
}

/// Join stdin and stdout to a port of an enclave
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  enclave-cli connect --enclave-id ID 5005
  echo hello | enclave-cli connect --enclave-id hello 5005")]
pub(crate) struct Connect {
    /// The enclave, by id or name
    #[arg(long, value_name = "ID")]
    pub(crate) enclave_id: String,

    /// vsock port inside the enclave
    pub(crate) port: u32,
}

/// Set CPUs and memory aside for enclaves
#[derive(Debug, Args)]
pub(crate) struct Allocator {
    /// What to do.
    #[command(subcommand)]
    pub(crate) action: AllocatorAction,
}

/// The allocator commands.
#[derive(Debug, Subcommand)]
pub(crate) enum AllocatorAction {
    Apply(AllocatorApply),
    Status(AllocatorStatus),
    Release(AllocatorRelease),
}

/// Take CPUs and huge pages from this machine until `release`
///
/// Enclaves take from this pool and give back to it. CPUs are whole cores and never CPU 0. The file for --config is nitro-cli's
/// allocator.yaml: `memory_mib`, and `cpu_count` or `cpu_pool`; without any option it is /etc/nitro_enclaves/allocator.yaml.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  enclave-cli allocator apply --memory-mib 1024 --cpu-count 2
  enclave-cli allocator apply --config ./allocator.yaml")]
#[command(group(clap::ArgGroup::new("cpus").args(["cpu_count", "cpu_pool"]).requires("memory_mib")))]
pub(crate) struct AllocatorApply {
    /// Memory for enclaves, MiB
    #[arg(long, value_name = "N", requires = "cpus")]
    pub(crate) memory_mib: Option<String>,

    /// How many CPUs
    #[arg(long, value_name = "N")]
    pub(crate) cpu_count: Option<String>,

    /// Which CPUs, such as 2,3,6-9
    #[arg(long, value_name = "LIST")]
    pub(crate) cpu_pool: Option<String>,

    /// All of it from a YAML file instead
    #[arg(long, value_name = "FILE", conflicts_with_all = ["memory_mib", "cpu_count", "cpu_pool"])]
    pub(crate) config: Option<PathBuf>,
}

/// Show what is set aside and what of it is free
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  enclave-cli allocator status")]
pub(crate) struct AllocatorStatus {}

/// Give everything back to this machine; refused while enclaves run
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  enclave-cli allocator release")]
pub(crate) struct AllocatorRelease {}

/// A parent machine in which nested KVM works
#[derive(Debug, Args)]
pub(crate) struct Machine {
    /// What to do.
    #[command(subcommand)]
    pub(crate) action: MachineAction,
}

/// The machine commands.
#[derive(Debug, Subcommand)]
pub(crate) enum MachineAction {
    Start(MachineStart),
    Status(MachineStatus),
    Exec(MachineExec),
    Stop(MachineStop),
}

/// Start it; from then on enclaves run in it
///
/// It is a QEMU of yours with this host's root file system, read-only, under a scratch layer. Where this host's KVM works and allows
/// nesting it is used; elsewhere QEMU emulates a CPU with virtualisation.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  enclave-cli machine start --cpus 4 --memory 4G")]
pub(crate) struct MachineStart {
    /// CPUs of the machine
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=255))]
    pub(crate) cpus: u32,

    /// Memory of the machine: MiB, or with M, G or T after it
    #[arg(long, value_name = "N[M|G|T]", default_value = "4G")]
    pub(crate) memory: String,
}

/// Say whether it is up, as JSON; exit 1 when it is not
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  enclave-cli machine status")]
pub(crate) struct MachineStatus {}

/// Run a command in it, with its input, output and exit code
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  enclave-cli machine exec -- grep Huge /proc/meminfo")]
pub(crate) struct MachineExec {
    /// The command
    #[arg(value_name = "CMD", required = true, last = true)]
    pub(crate) command: Vec<String>,
}

/// Stop it, and every enclave in it
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  enclave-cli machine stop")]
pub(crate) struct MachineStop {}

/// Say what this host can do for enclaves, and what would mend the rest
///
/// Exit 0: enclaves can run, here or in a machine. Exit 1: they cannot.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  enclave-cli doctor
  enclave-cli doctor --json")]
pub(crate) struct Doctor {
    /// JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,
}

/// Write the completions for a shell to stdout
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  enclave-cli completions bash \\
    > ~/.local/share/bash-completion/completions/enclave-cli")]
pub(crate) struct Completions {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

/// Write the manual pages into a folder; `make install` does it.
#[derive(Debug, Args)]
#[command(hide = true)]
pub(crate) struct Man {
    /// Made where it does not exist
    pub(crate) folder: PathBuf,
}
