"""Precompiled headers: most of the time that a small source takes is for others' headers."""

load("@bazel_tools//tools/cpp:toolchain_utils.bzl", "find_cpp_toolchain")
load("@bazel_tools//tools/build_defs/cc:action_names.bzl", "CPP_COMPILE_ACTION_NAME")

def _precompiled_header_impl(ctx):
    cc_toolchain = find_cpp_toolchain(ctx)
    if "clang" in cc_toolchain.compiler:
        return [CcInfo()]
    features = cc_common.configure_features(
        ctx = ctx,
        cc_toolchain = cc_toolchain,
        requested_features = ctx.features,
        unsupported_features = ctx.disabled_features,
    )

    # The compiler looks for it in every folder in which it looks for the header in whose stead it
    # is: this one has a folder of its own.
    output = ctx.actions.declare_file("%s_folder/%s.gch" % (ctx.label.name, ctx.attr.instead_of))
    context = cc_common.merge_cc_infos(
        cc_infos = [dep[CcInfo] for dep in ctx.attr.deps],
    ).compilation_context
    variables = cc_common.create_compile_variables(
        feature_configuration = features,
        cc_toolchain = cc_toolchain,
        source_file = ctx.file.header.path,
        output_file = output.path,
        user_compile_flags = ctx.fragments.cpp.copts + ctx.fragments.cpp.cxxopts,
        preprocessor_defines = context.defines,
        quote_include_directories = depset([".", ctx.label.workspace_root or "."]),
        use_pic = True,
    )
    ctx.actions.run(
        executable = cc_common.get_tool_for_action(
            feature_configuration = features,
            action_name = CPP_COMPILE_ACTION_NAME,
        ),
        # Of the warnings that .bazelrc asks for, -Wvla changes what is defined.
        arguments = ["-w", "-Wvla", "-x", "c++-header"] + cc_common.get_memory_inefficient_command_line(
            feature_configuration = features,
            action_name = CPP_COMPILE_ACTION_NAME,
            variables = variables,
        ),
        env = cc_common.get_environment_variables(
            feature_configuration = features,
            action_name = CPP_COMPILE_ACTION_NAME,
            variables = variables,
        ),
        inputs = depset(
            [ctx.file.header] + ctx.files.includes,
            transitive = [cc_toolchain.all_files],
        ),
        outputs = [output],
        mnemonic = "CppPrecompile",
        progress_message = "Precompiling %s" % ctx.file.header.short_path,
    )
    return [CcInfo(compilation_context = cc_common.create_compilation_context(
        # The compiler names the headers, too, as what a source depends on.
        headers = depset([output, ctx.file.header] + ctx.files.includes),
        quote_includes = depset([output.dirname]),
    ))]

precompiled_header = rule(
    implementation = _precompiled_header_impl,
    doc = "What depends on this and is compiled with -include <instead_of> has read `header`.",
    attrs = {
        "header": attr.label(allow_single_file = [".h"], mandatory = True),
        "includes": attr.label_list(allow_files = [".h"], doc = "Files of ours that it includes."),
        "instead_of": attr.string(
            mandatory = True,
            doc = "A small header of the C++ library, which is read where this cannot be used.",
        ),
        "deps": attr.label_list(
            providers = [CcInfo],
            doc = "What defines the macros that sources are compiled with.",
        ),
        "_cc_toolchain": attr.label(
            default = Label("@bazel_tools//tools/cpp:current_cc_toolchain"),
        ),
    },
    toolchains = ["@bazel_tools//tools/cpp:toolchain_type"],
    incompatible_use_toolchain_transition = True,
    fragments = ["cpp"],
)
