"""Rules that turn Cap'n Proto schemas into C++ messages, services and clients.

    load("@mi7//codegen:defs.bzl", "cc_capnp_library", "cc_mi7_library")

    cc_capnp_library(
        name = "calculator_capnp",
        srcs = ["calculator.capnp"],
    )

    cc_mi7_library(
        name = "calculator_mi7",
        srcs = ["calculator.capnp"],
        deps = [":calculator_capnp"],
    )

C++ code that depends on :calculator_mi7 includes "path/to/calculator.mi7.h".

A schema imports another as "/path/from/the/workspace/root.capnp", or relative to itself. Schemas of
Cap'n Proto ("/capnp/c++.capnp") are always there; mi7's annotations ("/mi7/annotations.capnp") need
"@mi7//schema:annotations_capnp" in deps.
"""

load("@bazel_tools//tools/cpp:toolchain_utils.bzl", "find_cpp_toolchain")

CapnpInfo = provider(
    doc = "Schemas and how to import them.",
    fields = {
        "direct": "list of struct(original, file, root, directory): a schema as it was given, as " +
                  "the compiler reads it, below which folder, and into which folder of the " +
                  "package its outputs go.",
        "sources": "depset of File: the schemas of this target and of all it depends on.",
        "import_paths": "depset of string: the folders that absolute imports start at.",
    },
)

def _join(*parts):
    return "/".join([part for part in parts if part])

def _schema(ctx, original):
    """Describes a source, which appears below import_prefix if there is one."""
    label = original.owner
    if label.workspace_name != ctx.label.workspace_name or label.package != ctx.label.package:
        fail("%s: the schema %s belongs to another package: what is generated stands beside its " %
             (ctx.label, label) + "schema, so put the rule into that package's BUILD file")
    inside = label.name
    if not ctx.attr.import_prefix:
        root = _join(original.root.path, label.workspace_root)
        return struct(original = original, file = original, root = root, directory = "")
    directory = _join("_virtual_imports", ctx.label.name)
    file = ctx.actions.declare_file(_join(directory, ctx.attr.import_prefix, inside))
    ctx.actions.symlink(output = file, target_file = original)
    root = _join(file.root.path, ctx.label.workspace_root, ctx.label.package, directory)
    return struct(original = original, file = file, root = root, directory = directory)

def _output_root(ctx, schema):
    """The folder that the generated files' include paths start at."""
    root = _join(ctx.bin_dir.path, ctx.label.workspace_root)
    return _join(root, ctx.label.package, schema.directory) if schema.directory else root

def _outputs(ctx, schema, plugin):
    inside = schema.file.path[len(schema.root) + 1:] if schema.root else schema.file.path
    if not schema.directory and ctx.label.package:
        inside = inside[len(ctx.label.package) + 1:]
    stem = _join(schema.directory, inside)
    if plugin.strip_extension and stem.endswith(".capnp"):
        stem = stem[:-len(".capnp")]
    return [ctx.actions.declare_file(stem + extension) for extension in plugin.extensions]

def _generate(ctx, schema, plugin, sources, import_paths):
    """Runs one plugin on one schema; returns the files that it writes."""
    outputs = _outputs(ctx, schema, plugin)
    standard = ctx.files._standard_schemas
    standard_path = [f for f in standard if f.path.endswith("/capnp/c++.capnp")][0].path
    args = ctx.actions.args()
    args.add("compile")
    args.add("--no-standard-import")
    args.add_all(import_paths, format_each = "-I%s")
    args.add(standard_path[:-len("/capnp/c++.capnp")], format = "-I%s")
    args.add(schema.root or ".", format = "--src-prefix=%s")
    args.add("-o%s:%s" % (plugin.executable.path, _output_root(ctx, schema)))
    args.add(schema.file)
    ctx.actions.run(
        executable = ctx.executable._capnp,
        arguments = [args],
        inputs = depset(standard, transitive = [sources]),
        outputs = outputs,
        tools = [plugin.executable],
        env = {"MI7_SCHEMA_PATH": ":".join(import_paths.to_list())},
        mnemonic = "CapnpCompile",
        progress_message = "Generating %s" % outputs[0].short_path,
    )
    return outputs

def _compile(ctx, outputs, roots, cc_deps):
    """Makes a C++ library of generated files; returns the providers that all rules share."""
    cc_toolchain = find_cpp_toolchain(ctx)
    features = cc_common.configure_features(
        ctx = ctx,
        cc_toolchain = cc_toolchain,
        requested_features = ctx.features,
        unsupported_features = ctx.disabled_features,
    )
    cc_infos = [dep[CcInfo] for dep in cc_deps if CcInfo in dep]
    compilation_context, compiled = cc_common.compile(
        name = ctx.label.name,
        actions = ctx.actions,
        feature_configuration = features,
        cc_toolchain = cc_toolchain,
        srcs = [f for f in outputs if not f.path.endswith(".h")],
        public_hdrs = [f for f in outputs if f.path.endswith(".h")],
        includes = roots,
        user_compile_flags = ctx.attr.copts,
        compilation_contexts = [info.compilation_context for info in cc_infos],
    )
    linking_contexts = [info.linking_context for info in cc_infos]
    files = []
    if compiled.objects or compiled.pic_objects:
        linking_context, linked = cc_common.create_linking_context_from_compilation_outputs(
            name = ctx.label.name,
            actions = ctx.actions,
            feature_configuration = features,
            cc_toolchain = cc_toolchain,
            compilation_outputs = compiled,
            linking_contexts = linking_contexts,
        )
        library = linked.library_to_link
        files = [f for f in [library.static_library, library.pic_static_library] if f]
        cc_info = CcInfo(
            compilation_context = compilation_context,
            linking_context = linking_context,
        )
    else:
        cc_info = cc_common.merge_cc_infos(
            direct_cc_infos = [CcInfo(compilation_context = compilation_context)],
            cc_infos = cc_infos,
        )
    return [
        DefaultInfo(files = depset(files or outputs)),
        OutputGroupInfo(generated = depset(outputs)),
        cc_info,
    ]

def _cc_capnp_library_impl(ctx):
    direct = [_schema(ctx, source) for source in ctx.files.srcs]
    capnp_infos = [dep[CapnpInfo] for dep in ctx.attr.deps if CapnpInfo in dep]
    sources = depset(
        [schema.file for schema in direct],
        transitive = [info.sources for info in capnp_infos],
    )
    import_paths = depset(
        [schema.root or "." for schema in direct],
        transitive = [info.import_paths for info in capnp_infos],
    )
    plugin = struct(
        executable = ctx.executable._plugin,
        extensions = [".h", ".c++"],
        strip_extension = False,
    )
    outputs = []
    for schema in direct:
        outputs += _generate(ctx, schema, plugin, sources, import_paths)
    roots = depset([_output_root(ctx, schema) for schema in direct]).to_list()
    return _compile(ctx, outputs, roots, ctx.attr.deps + [ctx.attr._runtime]) + [
        CapnpInfo(direct = direct, sources = sources, import_paths = import_paths),
    ]

def _cc_mi7_library_impl(ctx):
    known = {}
    for dep in ctx.attr.deps:
        if CapnpInfo in dep:
            for schema in dep[CapnpInfo].direct:
                known[schema.original] = (schema, dep[CapnpInfo])
    plugin = struct(
        executable = ctx.executable._plugin,
        extensions = [".mi7.mock.h"] if ctx.attr.mocks else [".mi7.h", ".mi7.cc"],
        strip_extension = True,
    )
    outputs = []
    for source in ctx.files.srcs:
        if source not in known:
            fail("%s: no cc_capnp_library with the schema %s is in deps: the services need the " %
                 (ctx.label, source.short_path) + "messages of the same file")
        schema, info = known[source]
        if source.owner.package != ctx.label.package:
            fail("%s: the schema %s belongs to another package; put the rule there" %
                 (ctx.label, source.owner))
        outputs += _generate(ctx, schema, plugin, info.sources, info.import_paths)
    return _compile(ctx, outputs, [], ctx.attr.deps + ctx.attr._runtime)

_COMMON_ATTRS = {
    "copts": attr.string_list(doc = "Options for compiling what is generated."),
    "_capnp": attr.label(
        default = Label("@capnp//:capnp_tool"),
        allow_single_file = True,
        executable = True,
        cfg = "host",
    ),
    "_standard_schemas": attr.label(default = Label("@capnp//:schemas")),
    "_cc_toolchain": attr.label(
        default = Label("@bazel_tools//tools/cpp:current_cc_toolchain"),
    ),
}

_CC_TOOLCHAIN = ["@bazel_tools//tools/cpp:toolchain_type"]

cc_capnp_library = rule(
    implementation = _cc_capnp_library_impl,
    doc = "C++ library of the messages of Cap'n Proto schemas: x.capnp.h for each x.capnp.",
    attrs = dict(
        _COMMON_ATTRS,
        srcs = attr.label_list(
            allow_files = [".capnp"],
            mandatory = True,
            doc = "Schemas of this package.",
        ),
        deps = attr.label_list(
            providers = [[CcInfo]],
            doc = "The cc_capnp_library targets of the schemas that these import.",
        ),
        import_prefix = attr.string(
            doc = "Folder that other schemas import these from, in place of the package's path: " +
                  "\"mi7\" makes x.capnp importable as \"/mi7/x.capnp\".",
        ),
        _plugin = attr.label(
            default = Label("@capnp//:capnpc_cxx_tool"),
            allow_single_file = True,
            executable = True,
            cfg = "host",
        ),
        _runtime = attr.label(default = Label("@capnp//:capnp-rpc")),
    ),
    provides = [CcInfo, CapnpInfo],
    fragments = ["cpp"],
    toolchains = _CC_TOOLCHAIN,
)

def _mi7_rule(doc, plugin, runtime):
    return rule(
        implementation = _cc_mi7_library_impl,
        doc = doc,
        attrs = dict(
            _COMMON_ATTRS,
            srcs = attr.label_list(allow_files = [".capnp"], mandatory = True),
            deps = attr.label_list(providers = [[CcInfo]]),
            mocks = attr.bool(),
            _plugin = attr.label(default = plugin, executable = True, cfg = "host"),
            _runtime = attr.label_list(default = runtime),
        ),
        provides = [CcInfo],
        fragments = ["cpp"],
        toolchains = _CC_TOOLCHAIN,
    )

_cc_mi7_library = _mi7_rule(
    doc = "C++ library of the services of Cap'n Proto schemas: x.mi7.h for each x.capnp.",
    plugin = Label("//codegen:capnpc-mi7"),
    runtime = [Label("//rpc:generated")],
)

_cc_mi7_mock_library = _mi7_rule(
    doc = "C++ library of gMock classes: x.mi7.mock.h for each x.capnp.",
    plugin = Label("//codegen:capnpc-mi7-mock"),
    runtime = [Label("@googletest//:gmock")],
)

def cc_mi7_library(name, srcs, deps, generate_mocks = False, **kwargs):
    """C++ library of the services and clients of Cap'n Proto schemas.

    Args:
      name: the library's name.
      srcs: schemas (x.capnp) of this package. Each gives x.mi7.h.
      deps: the cc_capnp_library with the same schemas; other C++ libraries if need be.
      generate_mocks: also makes <name>_mock, a library for tests with x.mi7.mock.h for each schema:
        gMock classes of its services.
      **kwargs: attributes that all rules have (visibility, testonly, tags...), and copts.
    """
    _cc_mi7_library(name = name, srcs = srcs, deps = deps, **kwargs)
    if generate_mocks:
        _cc_mi7_mock_library(
            name = name + "_mock",
            srcs = srcs,
            deps = deps + [":" + name],
            mocks = True,
            **dict(kwargs, testonly = True)
        )
