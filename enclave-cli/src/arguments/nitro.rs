//! Options of the commands that nitro-cli has: its own (spec: nitro-cli 1.5), and the ones this runtime adds to them.

use std::path::PathBuf;

use clap::Args;

/// Build an enclave image file (EIF) and print its measurements
///
/// The application comes from an OCI image layout on disk, or from a plain folder. The same inputs give the same bytes. Docker is not
/// needed: any tool that writes an OCI layout will do.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  enclave-cli build-enclave --oci-layout ./hello-oci:latest --output-file hello.eif
  enclave-cli build-enclave --rootfs ./rootfs --cmd /app --cmd --verbose \\
    --env MODE=test --output-file app.eif

An OCI layout from an image that Docker has:
  skopeo copy docker-daemon:hello:latest oci:./hello-oci:latest")]
#[command(disable_version_flag = true)]
#[command(group(clap::ArgGroup::new("source").required(true).args(["oci_layout", "rootfs", "docker_uri"])))]
#[command(group(clap::ArgGroup::new("command_source").multiple(true).args(["manifest", "cmd"])))]
pub(crate) struct BuildEnclave {
    /// Folder with an OCI image layout, and the tag in it where it has several
    #[arg(long, value_name = "DIR[:TAG]")]
    pub(crate) oci_layout: Option<String>,

    /// Folder that becomes the root file system
    #[arg(long, value_name = "DIR", requires = "command_source")]
    pub(crate) rootfs: Option<PathBuf>,

    /// Refused with the way round it: Docker images come as an OCI layout
    #[arg(long, value_name = "URI")]
    pub(crate) docker_uri: Option<String>,

    /// Refused with the way round it: build the Dockerfile with a tool of your choice
    #[arg(long, value_name = "DIR", requires = "docker_uri")]
    pub(crate) docker_dir: Option<PathBuf>,

    /// Where the image is written
    #[arg(long, value_name = "FILE")]
    pub(crate) output_file: PathBuf,

    /// TOML file over the image's own configuration: cmd, env, workdir, user
    #[arg(long, value_name = "FILE")]
    pub(crate) manifest: Option<PathBuf>,

    /// The program, then each of its arguments; replaces the image's own command
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    pub(crate) cmd: Vec<String>,

    /// Environment variable to add or replace
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,

    /// Guest kernel instead of the installed one (bzImage; `FILE.config` beside it names its version)
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,

    /// File with the kernel's command line instead of the installed one
    #[arg(long, value_name = "FILE")]
    pub(crate) cmdline: Option<PathBuf>,

    /// Guest init instead of the installed one
    #[arg(long, value_name = "FILE")]
    pub(crate) init: Option<PathBuf>,

    /// How much the layers may unpack to (default 16G)
    #[arg(long, value_name = "N[M|G|T]")]
    pub(crate) max_unpacked: Option<String>,

    /// ImageName in the metadata (default: the name of the layout or folder)
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,

    /// ImageVersion in the metadata (default: the digest of the image's configuration, "1.0" for a folder)
    ///
    /// Not measured, like all metadata.
    #[arg(long, value_name = "VERSION")]
    pub(crate) version: Option<String>,

    /// JSON file for CustomMetadata, at most 4096 bytes
    #[arg(long, value_name = "FILE")]
    pub(crate) metadata: Option<PathBuf>,
}

/// Show what is in an enclave image: measurements, signature, metadata
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  enclave-cli describe-eif --eif-path hello.eif")]
pub(crate) struct DescribeEif {
    /// The image
    #[arg(long, value_name = "FILE")]
    pub(crate) eif_path: PathBuf,
}

/// Print the PCR value of a file, or PCR8 of a signing certificate
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  enclave-cli pcr --input FILE
  enclave-cli pcr --signing-certificate cert.pem

--input prints SHA-384(zeros || SHA-384(file)), as nitro-cli does. PCR3 and
PCR4 are made without the inner hash and are not what this prints for a file
that holds a role or an instance id.")]
#[command(group(clap::ArgGroup::new("what").required(true).args(["input", "signing_certificate"])))]
pub(crate) struct Pcr {
    /// Any file
    #[arg(long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,

    /// A certificate in PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) signing_certificate: Option<PathBuf>,
}

/// Start an enclave and print its identity once it is up
///
/// The image is checked first, then whether this machine can run it at all; CPUs and memory come from the pool (`allocator apply`) or,
/// where there is none, from the machine, which has them back when the enclave ends. The command ends when the enclave has given
/// its first sign of life; the enclave goes on.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  enclave-cli run-enclave --eif-path hello.eif --cpu-count 2 --memory 512
  enclave-cli run-enclave --eif-path hello.eif --cpu-ids 2 3 --memory 1G \\
    --enclave-cid 16 --enclave-name hello
  enclave-cli run-enclave --eif-path hello.eif --cpu-count 1 --memory 256 --attach-console
  enclave-cli run-enclave --config hello.json

The file for --config is JSON with these keys, the last four optional:
  {\"eif_path\": \"hello.eif\", \"memory_mib\": 512, \"cpu_count\": 2 or \"cpu_ids\": [2, 3],
   \"enclave_cid\": 16, \"enclave_name\": \"hello\", \"debug_mode\": false, \"attach_console\": false}")]
#[command(group(clap::ArgGroup::new("cpus").required(true).args(["cpu_ids", "cpu_count", "config"])))]
pub(crate) struct RunEnclave {
    /// The CPUs that the enclave gets for itself
    #[arg(long, value_name = "ID", num_args = 1..)]
    pub(crate) cpu_ids: Vec<String>,

    /// How many CPUs the enclave gets for itself
    #[arg(long, value_name = "N")]
    pub(crate) cpu_count: Option<String>,

    /// Memory: a whole number, in MiB or with M, G or T after it
    #[arg(long, value_name = "N[M|G|T]", required_unless_present = "config")]
    pub(crate) memory: Option<String>,

    /// The image
    #[arg(long, value_name = "FILE", required_unless_present = "config")]
    pub(crate) eif_path: Option<PathBuf>,

    /// vsock address, 4 or more (default or 0: one is chosen)
    #[arg(long, value_name = "CID")]
    pub(crate) enclave_cid: Option<String>,

    /// Keep and show the console; PCR0-2 are zero in the enclave's documents
    #[arg(long)]
    pub(crate) debug_mode: bool,

    /// Show the console until the enclave ends (means --debug-mode)
    ///
    /// Ctrl-C leaves the console, not the enclave (with --wait it ends both).
    #[arg(long)]
    pub(crate) attach_console: bool,

    /// Name to find it by (default: the image's file name without .eif)
    #[arg(long, value_name = "NAME")]
    pub(crate) enclave_name: Option<String>,

    /// Everything from a JSON file instead
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "cpu_ids", "cpu_count", "memory", "eif_path", "enclave_cid", "debug_mode", "enclave_name",
    ])]
    pub(crate) config: Option<PathBuf>,

    /// Unix socket for `CONNECT <port>`; guest connections to port N go to PATH_N
    #[arg(long, value_name = "PATH")]
    pub(crate) vsock_path: Option<PathBuf>,

    /// Role that PCR3 is made of
    #[arg(long, value_name = "ARN")]
    pub(crate) role: Option<String>,

    /// The image comes on stdin; --eif-path is only its name. How the machine gets it.
    #[arg(long, hide = true, requires = "eif_path")]
    pub(crate) eif_from_stdin: bool,

    /// Print how long each step took, on stderr
    #[arg(long)]
    pub(crate) timing: bool,

    /// Stay until the enclave ends, and end with its application's exit code
    ///
    /// Ctrl-C then ends the enclave.
    #[arg(long)]
    pub(crate) wait: bool,
}

/// List the enclaves that run
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  enclave-cli describe-enclaves
  enclave-cli describe-enclaves --metadata")]
pub(crate) struct DescribeEnclaves {
    /// Also name, version and metadata of each image
    #[arg(long)]
    pub(crate) metadata: bool,
}

/// Show the console of an enclave in debug mode
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  enclave-cli console --enclave-id i-0123456789abcdef0-enc0123456789abcdef
  enclave-cli console --enclave-name hello --disconnect-timeout 30")]
#[command(group(clap::ArgGroup::new("which").required(true).args(["enclave_id", "enclave_name"])))]
pub(crate) struct Console {
    /// The enclave, by id
    #[arg(long, value_name = "ID")]
    pub(crate) enclave_id: Option<String>,

    /// The enclave, by name
    #[arg(long, value_name = "NAME")]
    pub(crate) enclave_name: Option<String>,

    /// Leave after so many seconds
    #[arg(long, value_name = "SECONDS")]
    pub(crate) disconnect_timeout: Option<u64>,
}

/// End an enclave, or all of them
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  enclave-cli terminate-enclave --enclave-id i-0123456789abcdef0-enc0123456789abcdef
  enclave-cli terminate-enclave --all")]
#[command(group(clap::ArgGroup::new("which").required(true).args(["enclave_id", "enclave_name", "all"])))]
pub(crate) struct TerminateEnclave {
    /// The enclave, by id
    #[arg(long, value_name = "ID")]
    pub(crate) enclave_id: Option<String>,

    /// The enclave, by name
    #[arg(long, value_name = "NAME")]
    pub(crate) enclave_name: Option<String>,

    /// Every enclave of yours
    #[arg(long)]
    pub(crate) all: bool,
}

/// Say what an error number means and what to do about it
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  enclave-cli explain --error-code E36")]
pub(crate) struct Explain {
    /// E00 to E60
    #[arg(long, value_name = "CODE")]
    pub(crate) error_code: String,
}
