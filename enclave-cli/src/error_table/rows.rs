//! The rows of the error table, by number: AWS's name, what has happened when it is raised here, what to do next.

use super::ErrorEntry;

const fn row(name: &'static str, meaning: &'static str, mend: &'static str) -> ErrorEntry {
    ErrorEntry { name, meaning, mend }
}

const INTERNAL: &str =
    "Run the command again with BACKTRACE=1; if it comes back, report it with the whole output.";
const NITRO_DRIVER_ONLY: &str = "Nothing to do here: enclaves run on KVM, without AWS's parent driver, so this number is never raised.";

pub(super) static TABLE: [ErrorEntry; 61] = [
    row("Unspecified error", "Something failed that no other number describes.", INTERNAL),
    row(
        "Missing mandatory argument",
        "An option that the command cannot do without was not given.",
        "Add the option that the message names; `<command> --help` shows an example.",
    ),
    row(
        "CLI conflicting arguments",
        "Two options were given of which only one may be, such as --cpu-ids and --cpu-count, or --config and any other.",
        "Keep one of the two.",
    ),
    row(
        "Invalid argument provided",
        "The value of an option is not one the command accepts, such as a reserved CID or a memory size that is no number.",
        "Correct the value that the message names.",
    ),
    row(
        "Socket pair creation failure",
        "The sockets between the enclave's processes could not be made.",
        "Look at the limit on open files (`ulimit -n`) and at free memory.",
    ),
    row(
        "Process spawn failure",
        "A process of the enclave's tree could not be started.",
        "Check that enclave-vmm is installed beside enclave-cli (or set ENCLAVE_LIB_DIR), and that processes and memory are not at their limit.",
    ),
    row(
        "Daemonize process failure",
        "The enclave's keeper could not leave the caller's session.",
        INTERNAL,
    ),
    row(
        "Read from disk failure",
        "A file was there, but reading it failed or gave fewer bytes than its size says.",
        "Look at the disk and at whoever rewrites the file at the same time.",
    ),
    row(
        "Unusable connection failure",
        "A connection to an enclave's keeper broke in the middle of an exchange.",
        "Run `describe-enclaves`: the enclave may have ended meanwhile.",
    ),
    row("Socket close failure", "A socket could not be closed in order.", INTERNAL),
    row(
        "Socket connect timeout failure",
        "The other side of a connection did not answer in time.",
        "Look whether the enclave still runs (`describe-enclaves`) and whether the parent is overloaded.",
    ),
    row(
        "Socket failure",
        "A socket operation failed.",
        "The message names the operation and the operating system's reason.",
    ),
    row("Epoll failure", "Waiting for several descriptors at once failed.", INTERNAL),
    row(
        "Inotify failure",
        "Watching a file for changes failed.",
        "Nothing to do here: this runtime watches no files.",
    ),
    row("Invalid command", "There is no such command.", "Run `--help` for the list."),
    row(
        "Lock acquire failure",
        "The lock on the run folder, an enclave or the authority could not be taken.",
        "Another command may hold it; look at `<run folder>/lock` and try again.",
    ),
    row("Thread join failure", "A thread of ours ended in an unexpected way.", INTERNAL),
    row(
        "Serde failure",
        "A message or a JSON file could not be read or written in its format.",
        "If it is a file of yours, the message says where it is wrong.",
    ),
    row(
        "File permissions failure",
        "The file system refuses the access that is needed.",
        "Correct owner or mode of what the message names, or run as the user who may.",
    ),
    row(
        "File operation failure",
        "A file or folder could not be opened, read, made or written.",
        "The message names the path and the operating system's reason.",
    ),
    row(
        "Invalid CPU configuration",
        "The same CPU was asked for twice, or a core was split.",
        "Give each CPU once, and all threads of a core together.",
    ),
    row(
        "No such CPU available in the pool",
        "A CPU that --cpu-ids names is not free for enclaves: it does not exist, is CPU 0's core, or another enclave has it.",
        "Run `allocator status` to see what is free.",
    ),
    row(
        "Insufficient CPUs available",
        "Fewer CPUs can be given to an enclave than were asked for.",
        "Ask for fewer, terminate another enclave, or apply a larger pool with `allocator apply --cpu-count N`.",
    ),
    row(
        "Malformed CPU ID",
        "A CPU id is not a number that the kernel knows.",
        "Use the numbers that `lscpu --extended` shows.",
    ),
    row(
        "CPU error",
        "The CPUs of this machine could not be read or partitioned.",
        "Run `doctor`: it names the missing part of cgroup v2.",
    ),
    row(
        "No such hugepage flag",
        "The page size is not one the kernel has.",
        "Run `doctor`: it says whether 2 MiB huge pages exist here.",
    ),
    row(
        "Insufficient memory requested",
        "The memory asked for is under what the image needs to unpack and run.",
        "Give at least the size that the message names.",
    ),
    row(
        "Insufficient memory available",
        "Fewer huge pages are free than the enclave needs.",
        "Run the `allocator apply --memory-mib N` that the message names, or terminate another enclave.",
    ),
    row(
        "Invalid enclave descriptor",
        "The descriptor of an enclave is not one.",
        NITRO_DRIVER_ONLY,
    ),
    row(
        "Ioctl failure",
        "KVM refused a request while the enclave was being set up.",
        "Run `doctor`; the message names the request and the kernel's reason.",
    ),
    row(
        "Ioctl to get the image load information failure",
        "Asking the parent driver where to load an image failed.",
        NITRO_DRIVER_ONLY,
    ),
    row(
        "Ioctl to set a memory region failure",
        "Giving a memory region to the parent driver failed.",
        NITRO_DRIVER_ONLY,
    ),
    row(
        "Ioctl to add a vCPU failure",
        "Giving a CPU to the parent driver failed.",
        NITRO_DRIVER_ONLY,
    ),
    row(
        "Ioctl to start the enclave failure",
        "Starting the enclave through the parent driver failed.",
        NITRO_DRIVER_ONLY,
    ),
    row(
        "Memory overflow",
        "A size in the image or the request is too large to add up.",
        "Check the image with `describe-eif`; a size in it may lie.",
    ),
    row(
        "EIF file parsing error",
        "The image is no EIF that may be started: cut short, wrong checksum, sizes that disagree, or sections that may not be there.",
        "Build it again; `describe-eif` shows what is wrong with it.",
    ),
    row(
        "Enclave boot failure",
        "The enclave did not reach its heartbeat: /dev/kvm is missing or cannot run guests, its kernel stopped, its init failed, or time ran out.",
        "Run `doctor`; where KVM does not work, `enclave-cli machine start` brings up a parent in which it does. Else start it again with --debug-mode --attach-console to see its console from the first byte.",
    ),
    row(
        "Enclave event wait failure",
        "An enclave that was waited for (run-enclave --wait) ended before its application did: terminated, crashed, or reset.",
        "The message says which; its record in the history folder has the details.",
    ),
    row(
        "Enclave process command not executed",
        "An enclave's keeper refused a command or failed to carry it out.",
        "Only the enclave's owner and root may do more than describe it; the message says which it was.",
    ),
    row(
        "Enclave process connection failure",
        "An enclave's keeper could not be reached.",
        "Run `describe-enclaves`; what a killed keeper left behind is cleaned up by that.",
    ),
    row(
        "Socket path not found",
        "There is no enclave with that id or name.",
        "Run `describe-enclaves` for those that run.",
    ),
    row(
        "Enclave process send reply failure",
        "The answer of an enclave's keeper was cut short.",
        "Run `describe-enclaves`: the enclave may have ended meanwhile.",
    ),
    row(
        "Enclave mmap error",
        "The enclave's memory could not be mapped.",
        "Look at the limit on locked memory and at free huge pages (`allocator status`).",
    ),
    row("Enclave munmap error", "The enclave's memory could not be unmapped.", INTERNAL),
    row(
        "Enclave console connection failure",
        "The console cannot be shown: the enclave was not started in debug mode, or its keeper does not answer.",
        "Start it with --debug-mode. A debug enclave's document has zero in PCR0-2, so it must not be trusted with secrets.",
    ),
    row(
        "Enclave console read error",
        "Reading the console broke off.",
        "The enclave may have ended; run `describe-enclaves`.",
    ),
    row(
        "Enclave console write output error",
        "What the console says could not be written to the terminal or file.",
        "Look at where the output goes: a closed pipe, a full disk.",
    ),
    row(
        "Integer parsing error",
        "Something that should be a whole number is not one.",
        "Correct the value that the message names.",
    ),
    row(
        "EIF building error",
        "The image could not be built from its parts.",
        "The message names the part: layout, manifest, kernel, command line or init.",
    ),
    row(
        "Docker image build error",
        "An image could not be built from a Dockerfile.",
        "Build it with the tool of your choice, copy it to an OCI layout, and give that as --oci-layout.",
    ),
    row(
        "Docker image pull error",
        "An image could not be fetched by its reference.",
        "Copy it to an OCI layout (`skopeo copy docker://IMAGE oci:DIR:TAG`) and give that as --oci-layout DIR:TAG.",
    ),
    row(
        "Artifacts path environment variable not set",
        "There is no folder for the files of a build.",
        "Set NITRO_CLI_ARTIFACTS or HOME.",
    ),
    row(
        "Blobs path environment variable not set",
        "The guest kernel, its command line or init is not where it is looked for.",
        "Run `make install`, or set ENCLAVE_BLOBS to the folder with bzImage, bzImage.config, cmdline and init.",
    ),
    row(
        "Clock skew error",
        "The clock of this machine cannot be right.",
        "Set the clock; certificates and documents depend on it.",
    ),
    row("Signal masking error", "Signals could not be blocked.", INTERNAL),
    row("Signal unmasking error", "Signals could not be unblocked.", INTERNAL),
    row(
        "Logger error",
        "The log could not be opened or written.",
        "Look at the folder that NITRO_CLI_LOGS_PATH names.",
    ),
    row(
        "Hasher error",
        "A file could not be hashed.",
        "The message names the file and the operating system's reason.",
    ),
    row(
        "Enclave naming error",
        "No running enclave of yours has that id or name, or the name is one that no enclave may have.",
        "Run `describe-enclaves` for those that run. For a new one, 1 to 128 printable characters are a name.",
    ),
    row(
        "EIF signature checker error",
        "The image carries a signature that is not valid for it: wrong key, changed image, or a certificate out of date.",
        "Sign it again with a certificate that is in date, or start the image it was made for.",
    ),
    row(
        "EIF signing error",
        "The image could not be signed.",
        "Check that key and certificate belong together and that the key is on P-256, P-384 or P-521.",
    ),
];
